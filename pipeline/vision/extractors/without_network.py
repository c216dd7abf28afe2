"""Feature extractors without a network of their own: detector, label and none."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.errors import InputError, UsageError
from features.records import Detections
from features.vocab import WordVectors, load_vectors
from pipeline.vision.detection import Detector
from pipeline.vision.extraction import PooledExtractor, relation_pairs
from pipeline.vision.images import LazyImage

Float = npt.NDArray[np.float32]


class DetectorFeatures(PooledExtractor):
    """The detector's features, or its feature maps pooled over the boxes.

    A detector without maps has no features of union boxes; a union box then has the mean of its
    subject's and object's features.
    """

    def __init__(self, detector: Detector) -> None:
        if not detector.provides & {"features", "maps"}:
            raise UsageError(
                "features 'detector' need a detector that provides features. Choose --features "
                "auto."
            )
        self.detector = detector
        self.needs_pixels = "features" not in detector.provides

    def identity(self) -> dict[str, object]:
        """Return name and version; the detector has its own identity."""
        return {"name": "detector", "version": 1}

    def extract(self, image: LazyImage, found: Detections) -> tuple[Float, Float]:
        """Return the detector's features, or pool its maps."""
        if self.needs_pixels:
            return super().extract(image, found)
        if found.features is None:
            raise InputError(f"{image.image_id}: the detector provides no features for this image.")
        return found.features, found.features[relation_pairs(found)].mean(1)

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return the mean of the detector's maps over each box, (n, D)."""
        features: Float = self.detector.regions(image, boxes)  # type: ignore[attr-defined]
        return features


class NoFeatures:
    """No region features; the store then has graphs only."""

    needs_pixels = False

    def identity(self) -> dict[str, object]:
        """Return name and version."""
        return {"name": "none", "version": 1}

    def extract(self, image: LazyImage, found: Detections) -> tuple[Float, Float]:
        """Return features of width 0."""
        counts = len(found.labels), len(found.relations or ())
        return np.zeros((counts[0], 0), np.float32), np.zeros((counts[1], 0), np.float32)


class LabelVectors:
    """Word vectors of the labels, for data without pixels.

    An object has the mean vector of the words of its label, a union box that of the words
    "subject predicate object".

    Args:
        vectors: text file of word vectors; None: the packaged MiniLM table (384 numbers).
    """

    needs_pixels = False

    def __init__(self, vectors: str | None = None) -> None:
        self.vectors = vectors
        self._known: dict[str, Float] = {}

    @cached_property
    def table(self) -> WordVectors:
        """The word vectors, loaded on first use."""
        return load_vectors(self.vectors)

    def identity(self) -> dict[str, object]:
        """Return name, version and the hash of the table."""
        return {"name": "label", "version": 1, "vectors": self.table.identity}

    def extract(self, image: LazyImage, found: Detections) -> tuple[Float, Float]:
        """Return one vector per object and per relation."""
        objects = [self._phrase(label) for label in found.labels]
        unions = [
            self._phrase(f"{found.labels[s]} {predicate} {found.labels[o]}")
            for s, predicate, o in found.relations or ()
        ]
        return _stack(objects, self.table.dim), _stack(unions, self.table.dim)

    def _phrase(self, text: str) -> Float:
        if text not in self._known:
            self._known[text] = self.table.phrase(text)
        return self._known[text]


def _stack(rows: list[Float], width: int) -> Float:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
