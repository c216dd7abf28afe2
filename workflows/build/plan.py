"""What one build will make: the content key and folder of every stage, before anything runs.

A plan reads the inputs (captions, file lists, hashes) and nothing heavy; Luigi's ``complete()``
asks it for keys. Two builds with equal inputs and options get equal keys, and so share shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import MissingInput, UsageError
from features.format.hash_cache import HashCache
from features.format.keys import hash_json
from workflows.build.text_plan import TextPlan, Variant

if TYPE_CHECKING:
    from features.convert.captions import CaptionSet
    from features.records import ImageEntry
    from pipeline.detect import Detector
    from pipeline.vision.graph_builder import GraphRules

__all__ = ["BuildOptions", "Plan", "Variant", "plan_of"]

TEXT_ONLY = "none"


@dataclass(frozen=True)
class BuildOptions:
    """Everything that decides what a build contains; speed knobs are not part of it.

    Attributes:
        dataset: name of the data set, the first part of the store manifest's name.
        images_dir: folder of the pictures, "" when the detector brings all that is needed.
        captions: caption files as ``features.convert.captions.caption_files`` takes them.
        store_dir: folder of the store.
        detector, detections: registry name (``none``: captions only), and the file or folder of a
            precomputed one.
        relations, features: registry names; ``auto`` takes what the detector brings.
        parser, profile, scheme: caption parser, rule profile, dependency scheme that is stored.
        max_objects, max_relations: most objects and relations per image.
        min_score, cross_class_iou, whole_image: as in ``GraphRules``; None and ``auto`` take what
            suits the detector.
        on_error: ``fail`` or ``skip``.
    """

    dataset: str
    images_dir: str
    captions: str
    store_dir: str
    detector: str = "nanodet"
    detections: str = ""
    relations: str = "auto"
    features: str = "auto"
    parser: str = "spacy"
    profile: str = "extended"
    scheme: str = "ud"
    max_objects: int = 36
    max_relations: int = 25
    min_score: float | None = None
    cross_class_iou: float | None = None
    whole_image: str = "auto"
    on_error: str = "fail"


class Plan(TextPlan):
    """The keys of one build, computed from its inputs on first use.

    Args:
        options: what to build.

    Raises:
        UsageError: an option makes no sense (any property may raise it on first use).
        InputError: an input file is broken or images are missing and ``on_error`` is ``fail``.
    """

    def __init__(self, options: BuildOptions) -> None:
        super().__init__(Path(options.store_dir), options.parser, options.profile, options.scheme)
        self.options = options
        if not options.store_dir:
            raise UsageError("--store-dir is empty: say where the store shall be.")
        if min(options.max_objects, options.max_relations) < 1:
            raise UsageError("--max-objects and --max-relations must be at least 1.")
        self._hashes = HashCache(self.store_dir / ".hashes.json")

    @property
    def has_graphs(self) -> bool:
        """False for ``--detector none``: captions only, images are names."""
        return self.options.detector != TEXT_ONLY

    @cached_property
    def detector(self) -> Detector:
        """The detector, created but not loaded."""
        from pipeline.detect import create_detector

        given = {"path": self.options.detections} if self.options.detections else {}
        return create_detector(self.options.detector, **given)

    @cached_property
    def caption_set(self) -> CaptionSet:
        """All images and captions that the caption files list."""
        from features.convert.captions import read_captions

        if not self.options.captions:
            raise MissingInput("--captions is not given: name the captions file.")
        return read_captions(self.options.captions, on_error=self.options.on_error)

    @cached_property
    def _selection(self) -> tuple[list[ImageEntry], list[str]]:
        from pipeline.vision.image_folder import ImageFolder, keep_available, keep_covered

        options = self.options
        folder = ImageFolder(Path(options.images_dir)) if options.images_dir else None
        if not self.has_graphs:
            return list(self.caption_set.entries), []
        detector = self.detector
        if folder is None and detector.needs_pixels:
            message = f"detector {options.detector!r} looks at pictures"
            raise MissingInput(f"{message}, but --images-dir is not given.")
        entries, unknown = keep_covered(
            self.caption_set.entries, detector.covers, folder, on_error=options.on_error
        )
        # Boxes alone (gold boxes, say) are pooled from the pictures that the user gave; graphs and
        # features that a file brings stand for themselves.
        boxes_only = not detector.provides & {"features", "relations"}
        pools = boxes_only and options.features not in ("label", "none")
        if folder is None or not (detector.needs_pixels or pools):
            return entries, unknown
        kept, missing = keep_available(entries, folder, on_error=options.on_error)
        return kept, unknown + missing

    @property
    def entries(self) -> list[ImageEntry]:
        """The images that go into the store, in the order of their rows."""
        return self._selection[0]

    @property
    def missing(self) -> list[str]:
        """Ids of the images that the captions list and that are not to be had."""
        return self._selection[1]

    @cached_property
    def has_pictures(self) -> bool:
        """True when every image's picture is on disk."""
        from pipeline.vision.image_folder import ImageFolder

        if not self.options.images_dir:
            return False
        folder = ImageFolder(Path(self.options.images_dir))
        return all(folder.find(entry) is not None for entry in self.entries)

    @cached_property
    def pictures(self) -> str:
        """Hash over names and contents of all pictures, "" when no pixel is looked at."""
        root = Path(self.options.images_dir)
        digests = self._hashes.files(root / entry.file for entry in self.entries)
        pairs = [[entry.file, digest] for entry, digest in zip(self.entries, digests, strict=True)]
        return hash_json(pairs)

    @cached_property
    def index(self) -> Variant:
        """Images, splits and captions."""
        from features.convert.captions import caption_files

        texts = [
            self._hashes.file(path)
            for path in caption_files(self.options.captions)
            if path.is_file()
        ]
        variant = self.built_index
        variant.params["about"] = {
            "captions_files": texts,
            "listed": len(self.caption_set.entries),
            "missing": len(self.missing),
            "dropped": [list(item) for item in self.caption_set.dropped[:100]],
            "n_dropped": len(self.caption_set.dropped),
        }
        return variant

    @cached_property
    def rules(self) -> GraphRules:
        """Which objects and relations enter a graph."""
        from pipeline.vision.graph_builder import rules_for

        options = self.options
        given = {
            "max_objects": options.max_objects,
            "max_relations": options.max_relations,
            "min_score": options.min_score,
            "cross_class_iou": options.cross_class_iou,
            "whole_image": None if options.whole_image == "auto" else options.whole_image,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return rules_for(self.detector, **chosen)

    @cached_property
    def relations(self) -> str:
        """Name of the relation predictor; ``auto`` resolved."""
        from pipeline.vision.relations import resolve_relations

        return resolve_relations(self.options.relations, self.detector)

    @cached_property
    def features(self) -> str:
        """Name of the region feature extractor; ``auto`` resolved."""
        from pipeline.vision.extraction import resolve_features

        return resolve_features(self.options.features, self.detector, has_pixels=self.has_pictures)

    @cached_property
    def visual(self) -> Variant:
        """Boxes, labels, relations and union boxes."""
        from pipeline.vision.graph_builder import VISUAL_VERSION
        from pipeline.vision.relations import create_relations

        parameters = {
            "detector": self.detector.identity(),
            "relations": create_relations(self.relations).identity(),
            "rules": self.rules.identity(),
        }
        inputs = {"index": self.index.key}
        if self.detector.needs_pixels:
            inputs["pictures"] = self.pictures
        return self._variant("visual", VISUAL_VERSION, parameters, inputs)

    @cached_property
    def regions(self) -> Variant:
        """Features of every object box and union box."""
        from pipeline.vision.extraction import create_extractor
        from pipeline.vision.graph_builder import REGIONS_VERSION

        extractor = create_extractor(self.features, self.detector)
        inputs = {"visual": self.visual.key}
        if extractor.needs_pixels:
            if not self.has_pictures:
                message = f"--features {self.features} looks at pictures, and some are not on disk"
                raise UsageError(f"{message}. Use --features label, or give all pictures.")
            inputs["pictures"] = self.pictures
        parameters = {"features": extractor.identity(), "dtype": "float16"}
        return self._variant("regions", REGIONS_VERSION, parameters, inputs)

    def variants(self) -> dict[str, Variant]:
        """Return all variants that the store binds, by the name under which it binds them."""
        found = {"index": self.index, **self.text_variants()}
        if self.has_graphs:
            found |= {"visual": self.visual, "regions": self.regions}
        return found


@lru_cache(maxsize=8)
def plan_of(options: BuildOptions) -> Plan:
    """Return the plan of these options; the stages of one build share it."""
    return Plan(options)
