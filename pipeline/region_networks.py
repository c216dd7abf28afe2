"""Feature extractors that run a network over the pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.keys import hash_file
from features.records import Detections, union_boxes
from pipeline.extractors import extractors, relation_pairs
from pipeline.images import Picture

__all__ = ["NanodetFeatures"]

Float = npt.NDArray[np.float32]


@extractors.register("nanodet")
class NanodetFeatures:
    """Maps of the embedded detector, pooled over any boxes: 576 numbers, colour included."""

    needs_pixels = True

    def identity(self) -> dict[str, object]:
        """Return name, version and weights."""
        from pipeline.detectors.nanodet import WEIGHTS

        return {"name": "nanodet", "version": 1, "weights": hash_file(WEIGHTS)}

    def extract(self, picture: Picture, found: Detections) -> tuple[Float, Float]:
        """Pool objects and unions in one pass."""
        from pipeline.detectors.nanodet import nanodet_features

        unions = union_boxes(found.boxes, relation_pairs(found))
        features = nanodet_features(picture, np.concatenate([found.boxes, unions]))
        return features[: len(found.boxes)], features[len(found.boxes) :]
