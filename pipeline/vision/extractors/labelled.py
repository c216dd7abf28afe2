"""Features of the label head: what it was fitted on, and what it says about each box."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format import hash_file
from features.records import Detections
from pipeline.vision.extraction import PooledExtractor, extractor_registry
from pipeline.vision.images import LazyImage
from pipeline.vision.label_head import LabelHead, head_path

Float = npt.NDArray[np.float32]

# Log-odds are shifted and scaled to the range of the other features: 0 is a probability of 0.7 %.
SHIFT, SCALE, LEAST = 5.0, 0.3, 1e-3


class LabelledFeatures(PooledExtractor):
    """Features of a label head's extractor, and log-odds of the head's nouns and attributes.

    What bottom-up attention's features have from Visual Genome, these have from captions: they
    separate what people name. With the packaged head 1860 numbers: 1312, 375 nouns, 173 attributes.

    Args:
        path: head written by ``fit-labels``; None: the packaged one; ``unseen``: see ``Labelled``.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = head_path(path)

    @cached_property
    def head(self) -> LabelHead:
        """The fitted head, loaded on first use."""
        return LabelHead.load(self.path)

    @cached_property
    def inner(self) -> PooledExtractor:
        """The extractor that the head was fitted on."""
        return fitted_extractor(self.head, self.path)

    def identity(self) -> dict[str, object]:
        """Return name, version, the hash of the head and the features that it was fitted on."""
        return {
            "name": "labelled",
            "version": 1,
            "head": hash_file(self.path),
            "features": self.inner.identity(),
        }

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes, (n, D + nouns + attributes)."""
        whole = np.array([[0, 0, *image.size]], np.float32)
        features = self.inner.pool(image, np.concatenate([boxes.reshape(-1, 4), whole]))
        features, context = features[:-1], features[-1]
        count = len(features)
        found = Detections(boxes, ("",) * count, np.zeros(count, np.float32), image.size)
        regions = self.head.for_image(image.image_id).predict(found, features, context)
        chance = np.concatenate([regions.nouns, regions.attributes], axis=1)
        odds = np.log((chance + LEAST) / (1 - chance + LEAST))
        return np.concatenate([features, (odds + SHIFT) * SCALE], axis=1).astype(np.float32)


def fitted_extractor(head: LabelHead, path: Path) -> PooledExtractor:
    """Return the extractor that a head was fitted on.

    Raises: UsageError: it has no features of any box.
    """
    made = extractor_registry.create(head.extractor)
    if not isinstance(made, PooledExtractor):
        raise UsageError(f"{path}: {head.extractor!r} has no features of any box.")
    return made
