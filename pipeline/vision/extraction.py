"""Region feature extractors: their protocol, registry, and choice for a detector.

An extractor turns an image, its objects and the union boxes of its relations into one vector per
box. Register your own with ``extractor_registry.register(name)`` or as an entry point of the group
``scenestore.extractors``.
"""

from __future__ import annotations

import abc
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.records import Detections, union_boxes
from features.registry import Registry
from pipeline.vision.detection import Detector
from pipeline.vision.images import LazyImage

Float = npt.NDArray[np.float32]


@runtime_checkable
class Extractor(Protocol):
    """Interface of a feature extractor.

    Attributes:
        needs_pixels: False when labels or precomputed features are enough.
    """

    needs_pixels: bool

    def identity(self) -> dict[str, object]:
        """Return all that its output depends on, for content keys; JSON values only."""
        ...

    def extract(self, image: LazyImage, found: Detections) -> tuple[Float, Float]:
        """Return features of the objects (n, D) and of the relations' union boxes (m, D)."""
        ...


class PooledExtractor(abc.ABC):
    """Base of extractors with features of any box: objects and union boxes are pooled together."""

    needs_pixels = True

    @abc.abstractmethod
    def identity(self) -> dict[str, object]:
        """Return all that its output depends on, for content keys; JSON values only."""

    @abc.abstractmethod
    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes (n, 4): (n, D)."""

    def extract(self, image: LazyImage, found: Detections) -> tuple[Float, Float]:
        """Return features of the objects (n, D) and of the union boxes (m, D)."""
        unions = union_boxes(found.boxes, relation_pairs(found))
        features = self.pool(image, np.concatenate([found.boxes, unions]))
        return features[: len(found.boxes)], features[len(found.boxes) :]


def relation_pairs(found: Detections) -> npt.NDArray[np.int64]:
    """Return the subject and object rows of the relations, (m, 2)."""
    pairs = [(subject, target) for subject, _, target in found.relations or ()]
    return np.array(pairs, np.int64).reshape(-1, 2)


_NETWORKS = "pipeline.vision.extractors.networks:"
_OTHERS = "pipeline.vision.extractors.without_network:"
extractor_registry: Registry[Extractor] = Registry(
    "feature extractor",
    "scenestore.extractors",
    {
        "nanodet": _NETWORKS + "NanodetFeatures",
        "efficientnet-lite0": _NETWORKS + "EfficientNetFeatures",
        "efficientnet-lite0-colours": _NETWORKS + "EfficientNetColours",
        "labelled": "pipeline.vision.extractors.labelled:LabelledFeatures",
        "onnx": _NETWORKS + "OnnxFeatures",
        "clip": _NETWORKS + "ClipFeatures",
        "timm": "pipeline.vision.extractors.timm:TimmFeatures",
        "detector": _OTHERS + "DetectorFeatures",
        "label": _OTHERS + "LabelVectors",
        "none": _OTHERS + "NoFeatures",
    },
    Extractor,
)


def create_extractor(name: str, detector: Detector, **options: object) -> Extractor:
    """Create the extractor called ``name``, resolved by ``resolve_features``.

    Raises:
        UnknownName: no extractor has this name.
        UsageError: an unknown option, or ``detector`` with a detector that provides no features.
    """
    if name == "detector":
        options["detector"] = detector
    return extractor_registry.create(name, **options)


def resolve_features(name: str, detector: Detector, *, has_pixels: bool = True) -> str:
    """Return the extractor's name; ``auto`` stands for what suits the detector.

    That is ``detector`` if it provides features or maps, else its ``default_features``, else
    ``nanodet``, or ``label`` when not every image has a file.

    Raises: UnknownName: no extractor has this name.
    """
    if name != "auto":
        create_extractor(name, detector)
        return name
    if "features" in detector.provides or ("maps" in detector.provides and has_pixels):
        return "detector"
    return getattr(detector, "default_features", "nanodet") if has_pixels else "label"
