"""Scene graphs and region features of images, computed with one set of plug-ins and rules.

For each image: decode, detect, select objects by the graph rules, predict relations, extract
features. An image that cannot be decoded, or that a precomputed file does not have, is ``Skipped``.
What a plug-in returns is checked (``pipeline.boundary``) before it is used.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import (
    FeatureOverflow,
    InputError,
    PluginError,
    UnreadableInput,
    UsageError,
)
from features.records import Detections, ImageEntry, Skipped
from pipeline.boundary import Call, checked_detections, checked_features, checked_relations
from pipeline.vision.boxes import nms
from pipeline.vision.detection import Detector, create_detector
from pipeline.vision.extraction import Extractor, create_extractor
from pipeline.vision.images import LazyImage, read_size
from pipeline.vision.relations import RelationPredictor, create_relations

Float = npt.NDArray[np.float32]

VISUAL_VERSION = "1"  # increase when graphs change for the same detector, predictor and rules
REGIONS_VERSION = "2"  # increase when features of the same boxes change
WHOLE_IMAGE = "scene"  # label of the node that covers the whole image


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRules:
    """Which objects and relations of an image enter its graph; all fields are part of the key.

    Attributes:
        max_objects: objects kept, best first, including the whole-image node.
        max_relations: relations kept, best first.
        min_score: objects with a lower score are dropped.
        cross_class_iou: of two boxes with a larger IoU the weaker is dropped, whatever their
            labels; 1 keeps all.
        whole_image: ``always`` adds a last object that covers the image, with score 0; ``empty``
            adds it only to images without objects, so that no image is lost.
    """

    max_objects: int = 36
    max_relations: int = 25
    min_score: float = 0.0
    cross_class_iou: float = 1.0
    whole_image: Literal["always", "empty"] = "empty"

    def __post_init__(self) -> None:
        if self.max_objects < 1 or self.max_relations < 0:
            raise UsageError(
                f"--max-objects {self.max_objects} must be at least 1 and --max-relations "
                f"{self.max_relations} at least 0."
            )
        if not (0 <= self.min_score <= 1 and 0 < self.cross_class_iou <= 1):
            raise UsageError(
                f"--min-score {self.min_score} must be in [0, 1] and --cross-class-iou "
                f"{self.cross_class_iou} in (0, 1]."
            )
        if self.whole_image not in ("always", "empty"):
            raise UsageError(f"whole_image must be 'always' or 'empty', not {self.whole_image!r}.")

    def identity(self) -> dict[str, object]:
        """Return all rules, for content keys and manifests."""
        return dataclasses.asdict(self)


def rules_for(detector: Detector, **overrides: object) -> GraphRules:
    """Return the default rules for a detector.

    Precomputed boxes are kept as they are. Boxes detected from pixels are many and uncertain:
    near-duplicates of other classes are dropped, and the whole image is added as an object, which
    raises the recall of what captions mention.
    """
    chosen: dict[str, object] = {}
    if detector.needs_pixels:
        chosen = {"cross_class_iou": 0.7, "whole_image": "always"}
    chosen |= getattr(detector, "rules", {})
    return GraphRules(**{**chosen, **overrides})  # type: ignore[arg-type]


def apply_rules(found: Detections, rules: GraphRules) -> Detections:
    """Select the objects of the graph, and the relations among them."""
    good = np.flatnonzero(found.scores >= rules.min_score)
    if rules.cross_class_iou < 1:
        kept = nms(
            found.boxes[good], found.scores[good], rules.cross_class_iou, limit=rules.max_objects
        )
        good = good[kept]
    room = rules.max_objects - (rules.whole_image == "always")
    chosen = found.select(good[:room].tolist())
    if rules.whole_image == "empty" and chosen.labels:
        return chosen
    features = chosen.features
    if features is not None:  # those of the whole image are the mean of the objects'
        mean = features.mean(0, keepdims=True) if len(features) else features.sum(0, keepdims=True)
        features = np.concatenate([features, mean])
    return dataclasses.replace(
        chosen,
        boxes=np.append(chosen.boxes, np.array([[0, 0, *found.size]], np.float32), axis=0),
        labels=(*chosen.labels, WHOLE_IMAGE),
        scores=np.append(chosen.scores, np.float32(0)).astype(np.float32),
        features=features,
        attributes=None if chosen.attributes is None else (*chosen.attributes, ()),
        attribute_scores=(
            None if chosen.attribute_scores is None else (*chosen.attribute_scores, ())
        ),
    )


class ImageGraph(NamedTuple):
    """The scene graph of an image, and features of its objects (n, D) and union boxes (m, D)."""

    found: Detections
    object_features: Float
    union_features: Float


class ImageGraphs(NamedTuple):
    """The graphs and features of several images, in order; arrays of skipped images are (0, 0)."""

    found: list[Detections | Skipped]
    object_features: list[Float]
    union_features: list[Float]

    @property
    def width(self) -> int | None:
        """D, or None when all images are skipped.

        Raises: InputError: the images have features of different widths.
        """
        widths = {rows.shape[1] for rows in self.object_features if len(rows)}
        if len(widths) > 1:
            raise InputError(
                f"the images of one shard have features of different widths: {sorted(widths)}."
            )
        return widths.pop() if widths else None


@dataclass(frozen=True)
class GraphBuilder:
    """Builds scene graphs and features of images.

    Attributes:
        detector, relations, extractor: plug-ins to run.
        rules: which objects and relations are kept.
        images_dir: folder of the image files; None when there are none.
        counts: how many boxes of a detections file were clipped or dropped so far.
    """

    detector: Detector
    relations: RelationPredictor
    extractor: Extractor
    rules: GraphRules
    images_dir: Path | None = None
    counts: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def create(
        cls,
        detector: str,
        detections: str,
        relations: str,
        features: str,
        rules: GraphRules,
        images_dir: str,
    ) -> GraphBuilder:
        """Create a builder from names.

        Args:
            detector, relations, features: names of the plug-ins, none of them ``auto``.
            detections: file that the detector reads, or "".
            rules: which objects and relations are kept.
            images_dir: folder of the image files, or "".
        """
        found = create_detector(detector, path=detections or None)
        return cls(
            found,
            create_relations(relations),
            create_extractor(features, found),
            rules,
            Path(images_dir) if images_dir else None,
        )

    @cached_property
    def feature_width(self) -> int:
        """Width of the features, for a shard whose images are all skipped."""
        blank = LazyImage.from_pixels("blank", np.full((64, 64, 3), 127, np.uint8))
        box, score = np.array([[0, 0, 64, 64]], np.float32), np.ones(1, np.float32)
        found = Detections(box, (WHOLE_IMAGE,), score, blank.size, relations=())
        if "features" in self.detector.provides:
            width = getattr(self.detector, "feature_width", None)
            known = self.detector.detect(blank).features if width is None else None
            width = width if known is None else known.shape[1]
            found = dataclasses.replace(found, features=np.zeros((1, width or 0), np.float32))
        return int(self.extractor.extract(blank, found)[0].shape[1])

    def build(self, entry: ImageEntry, digest: str = "") -> ImageGraph:
        """Return the graph and the features of one image.

        Args:
            entry: the image.   digest: first digits of the sha256 of its file; "": any.

        Raises:
            InputError: the image or its record is damaged, or the detector does not cover it.
            UnreadableInput: its file is missing or another one, or the memory does not suffice.
            PluginError: a plug-in failed. FeatureOverflow: a feature does not fit float16.
        """
        try:
            return self._build(entry, digest)
        except MemoryError as error:
            raise UnreadableInput(
                f"{entry.id}: out of memory. Run again with fewer --jobs, or with more memory."
            ) from error

    def _build(self, entry: ImageEntry, digest: str) -> ImageGraph:
        if not self.detector.covers(entry.id):
            raise InputError(f"{entry.id}: the detections file does not have this image.")
        path = None if self.images_dir is None else self.images_dir / entry.file
        image = LazyImage(entry.id)
        if self.detector.needs_pixels or self.extractor.needs_pixels:
            if path is None:
                raise InputError(f"{entry.id}: pixels are needed. Pass --images-dir.")
            image = LazyImage.open(entry.id, path, digest)
        call = self._call("detector", self.detector, entry, file=not self.detector.needs_pixels)
        with call.guarded():
            raw = self.detector.detect(image)
        if min(image.size) <= 0 and path is not None and not _is_sized(raw):
            image.size = read_size(path)
        found = checked_detections(call, raw, image.size)
        if min(found.size) <= 0:  # without image files, a size that contains all boxes
            found = dataclasses.replace(found, size=_extent(found.boxes))
        found = apply_rules(found, self.rules)
        related = found
        if found.labels[-1] == WHOLE_IMAGE and found.scores[-1] == 0:
            related = found.first(len(found.labels) - 1)  # the whole image has no relations
        limit = self.rules.max_relations
        call = self._call("relation predictor", self.relations, entry)
        with call.guarded():
            predicted = self.relations.predict(related, limit)
        relations, scores = checked_relations(call, predicted, len(related.labels), limit)
        found = dataclasses.replace(
            found,
            relations=relations,
            relation_scores=scores,
            shown=getattr(self.detector, "shown", 0.0),
            relations_shown=getattr(self.relations, "shown", 0.0),
        )
        call = self._call("feature extractor", self.extractor, entry)
        with call.guarded():
            features = self.extractor.extract(image, found)
        return ImageGraph(
            found, *checked_features(call, features, len(found.labels), len(relations))
        )

    def _call(self, kind: str, plugin: object, entry: ImageEntry, *, file: bool = False) -> Call:
        return Call.of(kind, plugin, entry.id, file=file, counts=self.counts)

    def build_all(
        self,
        entries: Iterable[ImageEntry],
        on_error: str = "fail",
        *,
        digests: Mapping[str, str] | None = None,
        excluded: Mapping[str, str] | None = None,
        failed: dict[str, str] | None = None,
        watch: Callable[[ImageEntry], AbstractContextManager[object]] = nullcontext,
    ) -> ImageGraphs:
        """Return the graphs and features of images.

        Args:
            entries: the images; ``file`` is relative to ``images_dir``.
            on_error: ``fail`` raises at the first damaged image or failure of a plug-in, ``skip``
                returns ``Skipped``.
            digests: image id -> first digits of the sha256 of its file.
            excluded: images that are not looked at: id -> reason.
            failed: gets the images that are skipped because a plug-in failed: id -> reason.
            watch: called for every image; the image is processed inside what it returns.

        Raises:
            InputError, PluginError, FeatureOverflow: as ``build``, if on_error is ``fail``.
            UnreadableInput: as ``build``, whatever on_error is.
        """
        if on_error not in ("fail", "skip"):
            raise UsageError(f"--on-error must be 'fail' or 'skip', not {on_error!r}.")
        graphs = ImageGraphs([], [], [])
        digests, excluded = digests or {}, excluded or {}
        nothing = np.zeros((0, 0), np.float32)
        for entry in entries:
            found: Detections | Skipped
            try:
                if entry.id in excluded:
                    found, objects, unions = Skipped(excluded[entry.id]), nothing, nothing
                else:
                    with watch(entry):
                        found, objects, unions = self.build(entry, digests.get(entry.id, ""))
            except UnreadableInput:
                raise
            except (InputError, PluginError, FeatureOverflow) as error:
                if on_error == "fail":
                    raise
                if failed is not None and not isinstance(error, InputError):
                    failed[entry.id] = str(error)
                found, objects, unions = Skipped(str(error)), nothing, nothing
            graphs.found.append(found)
            graphs.object_features.append(objects)
            graphs.union_features.append(unions)
        return graphs


def _is_sized(found: object) -> bool:
    """Return whether detections state the size of their image; also for what is none."""
    size = getattr(found, "size", None)
    return isinstance(size, tuple) and len(size) == 2 and min(size) > 0


def _extent(boxes: Float) -> tuple[int, int]:
    """Return the (width, height) that contains all boxes, at least one pixel each."""
    right, bottom = np.ceil(boxes[:, 2:].max(0, initial=1))
    return int(right), int(bottom)
