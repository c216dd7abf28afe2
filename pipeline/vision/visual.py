"""From one shard's images to its scene graphs and region features: nothing lost, nothing silent.

Order of work per picture: decode, detect, apply the graph rules, relate, pool features. A picture
that cannot be decoded, or that a precomputed file does not have, becomes the reason why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.errors import InputError, UsageError
from features.records import Detections, ImageEntry, Skipped
from pipeline.detect import Detector
from pipeline.vision.boxes import nms
from pipeline.vision.extractors.registry import Extractor
from pipeline.vision.images import Picture, read_size
from pipeline.vision.relations import RelationPredictor

__all__ = [
    "REGIONS_VERSION",
    "VISUAL_VERSION",
    "WHOLE_IMAGE",
    "GraphRules",
    "apply_rules",
    "build",
    "rules_for",
]

Float = npt.NDArray[np.float32]

VISUAL_VERSION = "1"  # bump when graphs change although detector and rules do not
REGIONS_VERSION = "2"  # likewise for the features of the same boxes
WHOLE_IMAGE = "scene"  # label of the node that covers the whole picture


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRules:
    """Which objects and relations of a picture enter its graph; every field is part of the key.

    Attributes:
        max_objects: objects kept, best first, the whole-image node included.
        max_relations: relations kept, best first.
        min_score: objects below are dropped.
        cross_class_iou: of two boxes that overlap more than this the weaker goes, whatever their
            classes; 1 keeps all.
        whole_image: ``always`` adds a last object that covers the picture, score 0; ``empty`` only
            where nothing was found, so that no image is lost.
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
                f"--min-score {self.min_score} must lie in [0, 1] and --cross-class-iou "
                f"{self.cross_class_iou} in (0, 1]."
            )
        if self.whole_image not in ("always", "empty"):
            raise UsageError(f"whole_image is 'always' or 'empty', not {self.whole_image!r}.")

    def identity(self) -> dict[str, object]:
        """Return all rules, for the content key and the manifest."""
        return dataclasses.asdict(self)


def rules_for(detector: Detector, **overrides: object) -> GraphRules:
    """Return the default rules for a detector.

    Boxes from a file are taken as they are. Boxes that are detected here are doubtful and many:
    near copies in other classes go, and the whole picture is an object too, which raises the
    recall of what captions speak about.
    """
    chosen: dict[str, object] = {}
    if detector.needs_pixels:
        chosen = {"cross_class_iou": 0.7, "whole_image": "always"}
    return GraphRules(**{**chosen, **overrides})  # type: ignore[arg-type]


def build(
    entries: Sequence[ImageEntry],
    images_dir: Path | None,
    detector: Detector,
    relations: RelationPredictor,
    extractor: Extractor,
    rules: GraphRules,
    on_error: str = "fail",
) -> tuple[list[Detections | Skipped], list[Float], list[Float]]:
    """Make the graphs and features of one shard.

    Args:
        entries: the images; ``file`` is relative to ``images_dir``.
        images_dir: folder of the pictures, None when there are none.
        detector, relations, extractor: what to run.
        rules: what enters the graph.
        on_error: ``fail`` raises at the first broken picture, ``skip`` gives its reason instead.

    Returns:
        three lists as long as ``entries``: the graph (or why there is none), object features
        (n, D), union features (m, D); (0, D) for a skipped image.

    Raises: InputError: a picture or its record is broken and on_error is ``fail``.
    """
    if on_error not in ("fail", "skip"):
        raise UsageError(f"--on-error is 'fail' or 'skip', not {on_error!r}.")
    graphs: list[Detections | Skipped] = []
    objects: list[Float] = []
    unions: list[Float] = []
    for entry in entries:
        try:
            found, of_objects, of_unions = build_one(
                entry, images_dir, detector, relations, extractor, rules
            )
        except InputError as error:
            if on_error == "fail":
                raise
            graphs.append(Skipped(str(error)))
            objects.append(np.zeros((0, 0), np.float32))
            unions.append(np.zeros((0, 0), np.float32))
            continue
        graphs.append(found)
        objects.append(of_objects)
        unions.append(of_unions)
    widths = {part.shape[1] for part, graph in zip(objects, graphs, strict=True) if graph_ok(graph)}
    if len(widths) > 1:
        raise InputError(f"features of {sorted(widths)} numbers in one shard; one width is needed.")
    width = widths.pop() if widths else 0
    for row, graph in enumerate(graphs):
        if not graph_ok(graph):
            objects[row] = unions[row] = np.zeros((0, width), np.float32)
    return graphs, objects, unions


def graph_ok(graph: Detections | Skipped) -> bool:
    """Say whether this is a graph, not the reason for having none."""
    return not isinstance(graph, Skipped)


def build_one(
    entry: ImageEntry,
    images_dir: Path | None,
    detector: Detector,
    relations: RelationPredictor,
    extractor: Extractor,
    rules: GraphRules,
) -> tuple[Detections, Float, Float]:
    """Make the graph and the features of one image.

    Raises: InputError: the picture or its record is broken, or the detector does not know it.
    """
    if not detector.covers(entry.id):
        raise InputError(f"{entry.id}: the detections file does not have this image.")
    path = None if images_dir is None else images_dir / entry.file
    if detector.needs_pixels or extractor.needs_pixels:
        if path is None:
            raise InputError(f"{entry.id}: pixels are needed. Give --images-dir.")
        picture = Picture.opened(entry.id, path)
    else:
        picture = Picture(entry.id, None)
    found = detector.detect(picture)
    size = found.size if min(found.size) > 0 else picture.size
    if min(size) <= 0:
        size = _extent(found) if path is None else read_size(path)
    found = apply_rules(dataclasses.replace(found, size=size), rules)
    plain = _without_whole_image(found)
    links, scores = relations.predict(plain, rules.max_relations)
    found = dataclasses.replace(found, relations=links, relation_scores=scores)
    of_objects, of_unions = extractor.extract(picture, found)
    return found, of_objects, of_unions


def apply_rules(found: Detections, rules: GraphRules) -> Detections:
    """Choose the objects of the graph; relations among the chosen ones stay."""
    good = np.flatnonzero(found.scores >= rules.min_score)
    if rules.cross_class_iou < 1:
        kept = nms(
            found.boxes[good], found.scores[good], rules.cross_class_iou, limit=rules.max_objects
        )
        good = good[kept]
    room = rules.max_objects - (rules.whole_image == "always")
    chosen = found.select(good[:room].tolist())
    if rules.whole_image == "always" or not chosen.labels:
        chosen = _with_whole_image(chosen)
    return chosen


def _with_whole_image(found: Detections) -> Detections:
    """Append the node that covers the picture; features of it, if any, are the objects' mean."""
    box = np.array([[0, 0, *found.size]], np.float32)
    features = found.features
    if features is not None:
        mean = features.mean(0, keepdims=True) if len(features) else features.sum(0, keepdims=True)
        features = np.concatenate([features, mean])
    return dataclasses.replace(
        found,
        boxes=np.concatenate([found.boxes, box]),
        labels=(*found.labels, WHOLE_IMAGE),
        scores=np.append(found.scores, np.float32(0)).astype(np.float32),
        features=features,
        attributes=None if found.attributes is None else (*found.attributes, ()),
    )


def _without_whole_image(found: Detections) -> Detections:
    """Return the objects that relations may speak about."""
    count = len(found.labels)
    last = count and found.labels[-1] == WHOLE_IMAGE and found.scores[-1] == 0
    return found.first(count - 1) if last else found


def _extent(found: Detections) -> tuple[int, int]:
    """Return a size that holds all boxes, for box lists without pictures; at least one pixel."""
    if not len(found.boxes):
        return 1, 1
    right, bottom = np.ceil(found.boxes[:, 2:].max(0))
    return max(1, int(right)), max(1, int(bottom))
