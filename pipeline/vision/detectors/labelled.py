"""The detector ``labelled``: region proposals with fitted labels, attributes and boxes."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from features.format import hash_file
from features.records import Detections
from pipeline.vision.detectors.regions import Regions
from pipeline.vision.extraction import PooledExtractor
from pipeline.vision.extractors.labelled import fitted_extractor
from pipeline.vision.images import LazyImage
from pipeline.vision.label_head import PACKAGED, UNSEEN, LabelHead, context_row, head_path


class Labelled:
    """Regions with the labels that a fitted head gives them.

    Args:
        path: head written by ``fit-labels``; None or ``packaged``: the packaged one (its origin is
            described in pipeline/vision/data/label-head.md); ``unseen``: the packaged one, but
            photos that it was fitted on are labelled by heads that have not seen them.
        limit: objects per image at most.
        min_score: labels with a lower probability are left out.
        min_attribute: attributes with a lower probability are left out.
    """

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size", "attributes", "attribute_scores"})
    rules: ClassVar[dict[str, object]] = {"cross_class_iou": 1.0, "whole_image": "always"}
    default_relations = "fitted"

    def __init__(
        self,
        path: Path | str | None = None,
        limit: int = 64,
        min_score: float = 0.01,
        min_attribute: float = 0.3,
    ) -> None:
        self.path = head_path(path)
        self.limit, self.min_score, self.min_attribute = limit, min_score, min_attribute
        self.regions = Regions()

    @cached_property
    def head(self) -> LabelHead:
        """The fitted head, loaded on first use."""
        return LabelHead.load(self.path)

    @property
    def default_features(self) -> str:
        """Name of the extractor of the same head."""
        names = {PACKAGED: "labelled", UNSEEN: "labelled:unseen"}
        return names.get(self.path, f"labelled:{self.path}")

    @property
    def shown(self) -> float:
        """Score from which displays show an object."""
        return self.head.shown

    @cached_property
    def extractor(self) -> PooledExtractor:
        """The extractor that the head was fitted on."""
        return fitted_extractor(self.head, self.path)

    def identity(self) -> dict[str, object]:
        """Return name, version, the hash of the head, its regions and features, and thresholds."""
        return {
            "name": "labelled",
            "version": 3,
            "head": hash_file(self.path),
            "regions": self.regions.identity(),
            "features": self.extractor.identity(),
            "limit": self.limit,
            "min_score": self.min_score,
            "min_attribute": self.min_attribute,
            "shown": self.shown,
        }

    def covers(self, image_id: str) -> bool:
        """Return True: any image can be processed."""
        return True

    def detect(self, image: LazyImage) -> Detections:
        """Return the labelled objects of an image, most probable first."""
        found = self.regions.detect(image)
        features = self.extractor.pool(image, found.boxes)
        context = features[context_row(found.labels)]
        head = self.head.for_image(image.image_id)
        regions = head.predict(found, features, context)
        objects = head.objects(found, regions, self.limit, self.min_attribute)
        likely = [row for row, score in enumerate(objects.scores) if score >= self.min_score]
        return dataclasses.replace(objects.select(likely), shown=self.shown)
