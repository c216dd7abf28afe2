"""Region features: the protocol, the registry, and extractors that need no further network.

An extractor turns one picture with its objects and union boxes into one vector per box; objects
and unions go through the feature map together.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.errors import InputError, UsageError
from features.records import Detections, union_boxes
from features.registry import Registry
from pipeline.vision.images import Picture

if TYPE_CHECKING:
    from features.vocab.vectors import WordVectors
    from pipeline.detect import Detector

__all__ = [
    "Extractor",
    "create_extractor",
    "extractor_identity",
    "extractor_needs_pixels",
    "extractors",
    "resolve_features",
]

Float = npt.NDArray[np.float32]


@runtime_checkable
class Extractor(Protocol):
    """What every feature extractor offers.

    Attributes:
        needs_pixels: False when labels or precomputed features are enough.
    """

    needs_pixels: bool

    def identity(self) -> dict[str, object]:
        """Return what its output depends on, for the content key; JSON values only."""
        ...

    def extract(self, picture: Picture, found: Detections) -> tuple[Float, Float]:
        """Return features of the objects (n, D) and of the relations' union boxes (m, D)."""
        ...


extractors: Registry[Extractor] = Registry("feature extractor", "scenestore.extractors")


def resolve_features(name: str, detector: Detector, *, pictures: bool = True) -> str:
    """Return the extractor's name; ``auto`` takes what the detector brings.

    Without features or maps of the detector, ``auto`` is ``nanodet`` where every image has its
    picture and ``label`` where not.

    Raises: UnknownName: nobody registered this name.
    """
    if name != "auto":
        create_extractor(name, detector)
        return name
    if "features" in detector.brings or ("maps" in detector.brings and pictures):
        return "detector"
    return "nanodet" if pictures else "label"


def create_extractor(name: str, detector: Detector, **options: object) -> Extractor:
    """Build an extractor by its resolved name.

    Raises:
        UnknownName: nobody registered this name.
        UsageError: ``detector`` with a detector that brings no features.
    """
    import pipeline.vision.extractors.networks
    import pipeline.vision.extractors.timm  # noqa: F401  (both register extractors that run networks)

    if name == "detector":
        return DetectorFeatures(detector)
    return extractors.create(name, **options)


def extractor_identity(name: str, detector: Detector) -> dict[str, object]:
    """Return what the output of an extractor with default options depends on, for the key."""
    return create_extractor(name, detector).identity()


def extractor_needs_pixels(name: str, detector: Detector) -> bool:
    """Say whether an extractor looks at pictures."""
    return create_extractor(name, detector).needs_pixels


class DetectorFeatures:
    """The detector's own features, or its own maps pooled over the boxes.

    Features that come without maps know nothing of union boxes: a union gets the mean of its
    subject's and its object's features.
    """

    def __init__(self, detector: Detector) -> None:
        if not detector.brings & {"features", "maps"}:
            raise UsageError(
                "features 'detector' need a detector that brings features. Choose --features auto."
            )
        self.detector = detector
        self.needs_pixels = "features" not in detector.brings

    def identity(self) -> dict[str, object]:
        """Return name and version; the detector has its own identity."""
        return {"name": "detector", "version": 1}

    def extract(self, picture: Picture, found: Detections) -> tuple[Float, Float]:
        """Return the features the detector brought, or pool its maps."""
        pairs = relation_pairs(found)
        if "features" in self.detector.brings:
            if found.features is None:
                raise InputError(
                    f"{picture.image_id}: the detector brings no features for this image."
                )
            return found.features, found.features[pairs].mean(1)
        boxes = np.concatenate([found.boxes, union_boxes(found.boxes, pairs)])
        features = self.detector.regions(picture, boxes)  # type: ignore[attr-defined]
        return features[: len(found.boxes)], features[len(found.boxes) :]


@extractors.register("detector")
def _of_no_detector() -> Extractor:
    raise UsageError("features 'detector' belong to a detector: use create_extractor.")


@extractors.register("none")
class NoFeatures:
    """No region features: the store holds graphs only."""

    needs_pixels = False

    def identity(self) -> dict[str, object]:
        """Return name and version."""
        return {"name": "none", "version": 1}

    def extract(self, picture: Picture, found: Detections) -> tuple[Float, Float]:
        """Return features of width 0."""
        relations = found.relations or ()
        return np.zeros((len(found.labels), 0), np.float32), np.zeros(
            (len(relations), 0), np.float32
        )


@extractors.register("label")
class LabelVectors:
    """The word vector of each class label: the choice when there are no pixels.

    An object has the mean vector of its label's words, a union box that of the words of
    "subject predicate object".

    Args:
        vectors: text file of word vectors; None takes the packaged MiniLM table (384 numbers).
    """

    needs_pixels = False

    def __init__(self, vectors: str | None = None) -> None:
        self.vectors = vectors
        self._known: dict[str, Float] = {}

    @cached_property
    def table(self) -> WordVectors:
        """The word vectors, loaded at first use."""
        from features.vocab.vectors import load_vectors

        return load_vectors(self.vectors)

    def identity(self) -> dict[str, object]:
        """Return name, version and the table's hash."""
        return {"name": "label", "version": 1, "vectors": self.table.identity}

    def extract(self, picture: Picture, found: Detections) -> tuple[Float, Float]:
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


def relation_pairs(found: Detections) -> npt.NDArray[np.int64]:
    """Return the subject and object rows of the relations, (m, 2)."""
    pairs = [(subject, target) for subject, _, target in found.relations or ()]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _stack(rows: list[Float], width: int) -> Float:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
