"""Labels and attributes of regions from their features: a small network in numpy.

One hidden layer over the features of a region and of the whole image, the geometry of its box, and
the detector's label. It returns the probability of each noun, each attribute and a better box. A
probability is that of the event that people would box this region and call it so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format import replacing
from features.npz_files import check_array, check_names, open_npz
from features.records import Detections
from pipeline.vision.boxes import clip_boxes, iou_matrix
from pipeline.vision.folds import WEIGHTS, Folds

Float = npt.NDArray[np.float32]

PACKAGED = Path(__file__).parent / "data" / "label-head.npz"
UNSEEN = PACKAGED.with_name("label-head-unseen.npz")  # the same with folds
GEOMETRY = 10  # numbers that describe a box
PER_REGION = 8  # labels of a region that compete for a place in the graph
SAME_IOU = 0.4  # of two boxes with one label, the weaker is dropped above this IoU
SURE = 0.3  # score from which a box of the detector is taken for what it says
# A box of the detector with this score keeps its label if the head has no noun that is as probable.
CERTAIN, UNSURE = 0.7, 0.35
RARE = 100  # a class of the detector keeps its label if its noun was fitted on fewer boxes
# Nouns of classes of COCO that people call otherwise.
NOUN_OF_CLASS = {
    "baseball bat": "bat",
    "baseball glove": "glove",
    "bicycle": "bike",
    "cell phone": "phone",
    "dining table": "table",
    "handbag": "bag",
    "potted plant": "plant",
    "skis": "ski",
    "sports ball": "ball",
    "tennis racket": "racket",
    "wine glass": "glass",
}
OVERLAP = (0.2, 0.6)  # IoU at which two boxes begin to be, and surely are, one object
STEP = 5.0  # scale of the predicted change of a box


class Regionals(NamedTuple):
    """What the head says about n regions.

    Attributes:
        nouns: (n, N) probabilities.   attributes: (n, A) probabilities, given an object.
        boxes: (n, 4) corrected boxes, xyxy pixels.
    """

    nouns: Float
    attributes: Float
    boxes: Float


@dataclass(frozen=True, eq=False)
class LabelHead:
    """The fitted weights; H hidden units, D features.

    Attributes:
        extractor: name of the feature extractor that it was fitted on.
        nouns, attributes: names of the outputs.
        detector_labels: labels of the detector that have a weight.
        region: (D, H).   context: (D, H), of the whole image.   geometry: (10, H).
        detector: (L + 1, H), by label times score, and the score alone.   bias: (H,).
        output: (H, N + A + 4).   output_bias: (N + A + 4,).
        together: (N, N) P(column noun | row noun) for the same object.
        shown: probability above which a label is right more often than not, for displays.
        about: description of the training data.
        folds: heads for the images that this one was fitted on; None: it is used for all images.
    """

    extractor: str
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]
    detector_labels: tuple[str, ...]
    region: Float
    context: Float
    geometry: Float
    detector: Float
    bias: Float
    output: Float
    output_bias: Float
    together: Float
    shown: float = 0.5
    about: str = ""
    folds: Folds | None = None

    def for_image(self, image_id: str) -> LabelHead:
        """Return the head for an image: one that was not fitted on it."""
        fold = None if self.folds is None else self.folds.of(image_id)
        if fold is None:
            return self
        if fold not in self._of_folds:
            assert self.folds is not None  # for the type checker
            weights = self.folds.weights_of(fold)
            self._of_folds[fold] = replace(self, folds=None, **weights)  # type: ignore[arg-type]
        return self._of_folds[fold]

    @cached_property
    def _of_folds(self) -> dict[int, LabelHead]:
        return {}

    @cached_property
    def _row(self) -> dict[str, int]:
        return {label: row for row, label in enumerate(self.detector_labels)}

    def predict(self, found: Detections, features: Float, context: Float) -> Regionals:
        """Return nouns, attributes and boxes of regions.

        Args:
            found: n regions with the detector's labels and scores.
            features: (n, D).   context: (D,), of the whole image.

        Raises: UsageError: features of another width.
        """
        if features.shape[1] != len(self.region):
            raise UsageError(
                f"the features have width {features.shape[1]}, the label head needs "
                f"{len(self.region)}: those of --features {self.extractor}."
            )
        hidden = features.astype(np.float32) @ self.region + self.bias
        hidden += context.astype(np.float32) @ self.context
        hidden += box_geometry(found.boxes, found.size) @ self.geometry
        hidden += found.scores[:, None] * self.detector[-1]
        for row, label in enumerate(found.labels):
            if label in self._row:
                hidden[row] += found.scores[row] * self.detector[self._row[label]]
        values = np.maximum(hidden, 0) @ self.output + self.output_bias
        n, a = len(self.nouns), len(self.attributes)
        chances = 1 / (1 + np.exp(-np.clip(values[:, : n + a], -30, 30)))
        boxes = moved_boxes(found.boxes, values[:, n + a :], found.size)
        return Regionals(chances[:, :n], chances[:, n:], boxes)

    def objects(
        self, found: Detections, regions: Regionals, limit: int, min_attribute: float = 0.3
    ) -> Detections:
        """Choose the labelled boxes of a graph, most probable first.

        A region may have several labels. Each choice adds the most to the expected number of boxes
        of people that are found under a right name, so a synonym of a label that is chosen already
        counts less, and so does a box that overlaps a chosen one. What the detector recognises
        keeps the detector's label, score and box if the head was fitted on it too rarely, or does
        not know what it is.

        Args:
            found: the regions.   regions: what ``predict`` says about them.
            limit: objects at most.
            min_attribute: attributes with a lower probability are left out.
        """
        own = self._own_labels(found, regions)
        names = (*self.nouns, *sorted(set(own.values()) - set(self.nouns)))
        together = np.zeros((len(names), len(names)), np.float32)
        together[: len(self.nouns), : len(self.nouns)] = self.together
        nouns, boxes = regions.nouns.copy(), regions.boxes.copy()
        for row in own:  # what the detector recognises is nothing else
            same = iou_matrix(regions.boxes, found.boxes[row : row + 1])[:, 0] > SAME_IOU
            nouns[same] *= 1 - found.scores[row]
            boxes[row] = found.boxes[row]
        labels = np.argsort(-nouns, axis=1, kind="stable")[:, :PER_REGION]
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        labels = labels.reshape(-1)
        scores = np.concatenate([nouns[rows, labels], found.scores[list(own)]])
        rows = np.concatenate([rows, np.array(list(own), np.int64)])
        labels = np.concatenate(
            [labels, np.array([names.index(n) for n in own.values()], np.int64)]
        )
        overlaps = iou_matrix(boxes, boxes)
        low, high = OVERLAP
        gains, chosen = scores.copy(), []
        for _ in range(min(limit, len(gains))):
            best = int(gains.argmax())
            if gains[best] <= 0:
                break
            chosen.append(best)
            overlap = overlaps[rows[best]][rows]
            alike = labels == labels[best]
            shared = np.clip((overlap - low) / (high - low), 0, 1)
            gains *= np.where(alike, 1, 1 - together[labels, labels[best]] * shared)
            gains[alike & (overlap > SAME_IOU)] = 0
            gains[best] = 0
        order = sorted(chosen, key=lambda at: -scores[at])
        attributes = []
        for at in order:
            chances = regions.attributes[rows[at]]
            ranked = np.argsort(-chances, kind="stable")
            attributes.append(ranked[chances[ranked] >= min_attribute])
        return Detections(
            boxes=boxes[rows[order]].reshape(-1, 4),
            labels=tuple(names[labels[at]] for at in order),
            scores=scores[order].astype(np.float32),
            size=found.size,
            attributes=tuple(tuple(self.attributes[a] for a in some) for some in attributes),
            attribute_scores=tuple(
                tuple(regions.attributes[rows[at], some].tolist())
                for at, some in zip(order, attributes, strict=True)
            ),
        )

    def _own_labels(self, found: Detections, regions: Regionals) -> dict[int, str]:
        """Return the regions that keep the detector's label, and the noun for it."""
        share = self.together.diagonal()  # boxes / (boxes + 5)
        common = {
            noun for noun, part in zip(self.nouns, share, strict=True) if part > RARE / (RARE + 5)
        }
        named = {
            row: NOUN_OF_CLASS.get(label, label)
            for row, label in enumerate(found.labels)
            if found.scores[row] >= SURE
        }
        best = regions.nouns.max(1, initial=0)
        return {
            row: noun
            for row, noun in named.items()
            if noun not in common or (found.scores[row] >= CERTAIN and best[row] < UNSURE)
        }

    def save(self, path: Path | str) -> None:
        """Write the head as npz, weights as float16, those of the folds in 7 bits.

        Raises: WriteError.
        """
        arrays = {name: getattr(self, name) for name in _stored(type(self))}
        for name, value in arrays.items():
            if isinstance(value, np.ndarray):
                arrays[name] = value.astype(np.float16)
            elif isinstance(value, tuple):
                arrays[name] = np.array(value, dtype=np.str_)
        if self.folds is not None:
            arrays |= self.folds.arrays()
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> LabelHead:
        """Read a head written by ``save``.

        Raises: InputError: not a label head. MissingInput: no such file.
        """
        known: dict[str, object] = {}
        with open_npz(path, "a label head written by fit-labels", "Fit it again.") as data:
            for name, value in ((name, data[name]) for name in _stored(cls)):
                if value.dtype == np.float16:
                    known[name] = value.astype(np.float32)
                else:
                    known[name] = tuple(value.tolist()) if value.ndim else value.item()
            known["folds"] = Folds.of_arrays(data)
            head = cls(**known)  # type: ignore[arg-type]
            head._check()
            return head

    def _check(self) -> None:
        """Raise ValueError if names, weights or folds are not what they should be."""
        for name in ("nouns", "attributes", "detector_labels"):
            check_names(name, getattr(self, name))
        texts: tuple[object, ...] = (self.extractor, self.about)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("'extractor' or 'about' is not a text")
        if not 0 <= self.shown <= 1:
            raise ValueError(f"'shown' is {self.shown!r}, not a probability")
        n = len(self.nouns)
        check_array("together", self.together, (n, n))
        detector, outputs = len(self.detector_labels) + 1, n + len(self.attributes) + 4
        own = {name: getattr(self, name) for name in WEIGHTS}
        _check_weights(own, len(self.region), detector, outputs)
        if self.folds is not None:
            check_array("fold_basis", self.folds.basis, (len(self.region), self.folds.components))
            heads, components = (len(self.folds),), self.folds.components
            _check_weights(self.folds.weights, components, detector, outputs, heads)


def _check_weights(
    weights: Mapping[str, Float],
    inputs: int,
    detector: int,
    outputs: int,
    heads: tuple[int, ...] = (),
) -> None:
    """Raise ValueError if a weight is not finite or has another shape than the others tell."""
    hidden = weights["bias"].shape[-1]
    shapes = {
        "region": (inputs, hidden),
        "context": (inputs, hidden),
        "geometry": (GEOMETRY, hidden),
        "detector": (detector, hidden),
        "bias": (hidden,),
        "output": (hidden, outputs),
        "output_bias": (outputs,),
    }
    for name, shape in shapes.items():
        check_array(f"fold_{name}" if heads else name, weights[name], (*heads, *shape))


def head_path(name: str | Path | None) -> Path:
    """Return the file of a head: None or ``packaged``, ``unseen``, or a path."""
    if name in (None, "packaged"):
        return PACKAGED
    return UNSEEN if name == "unseen" else Path(str(name))


def _stored(head: type[LabelHead]) -> list[str]:
    """Return the names of the arrays of a head without its folds."""
    return [field.name for field in fields(head) if field.name != "folds"]


def box_geometry(boxes: Float, size: tuple[int, int]) -> Float:
    """Return the numbers that describe each box of an image of ``size``, (n, 10)."""
    width, height = size
    w, h = (boxes[:, 2] - boxes[:, 0]) / width, (boxes[:, 3] - boxes[:, 1]) / height
    shape = 0.5 * np.log((w * width + 1) / (h * height + 1))
    whole = np.full(len(boxes), 0.5 * np.log(width / height))
    scaled = boxes / np.array([width, height, width, height], np.float32)
    columns = (*scaled.T, w, h, np.sqrt(w * h), 0.3 * np.log(w * h + 1e-4), shape, whole)
    return (np.stack(columns, axis=1) * 2 - 0.5).astype(np.float32)


def box_steps(boxes: Float, gold: Float) -> Float:
    """Return the change from each box to its gold box, as the head predicts it, (n, 4)."""
    sides, aim = boxes[:, 2:] - boxes[:, :2], gold[:, 2:] - gold[:, :2]
    shift = (gold[:, :2] + gold[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    scale = np.log(np.maximum(aim, 1) / np.maximum(sides, 1))
    steps: Float = np.concatenate([shift, scale], axis=1).astype(np.float32) * np.float32(STEP)
    return steps


def moved_boxes(boxes: Float, steps: Float, size: tuple[int, int]) -> Float:
    """Return the boxes after the predicted changes, clipped to the image: the inverse."""
    steps = steps / STEP
    sides = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + steps[:, :2] * sides
    half = sides * np.exp(np.clip(steps[:, 2:], -1, 1)) / 2
    return clip_boxes(np.concatenate([centre - half, centre + half], 1).astype(np.float32), size)


def context_row(labels: Sequence[str]) -> int:
    """Return the row of the whole image among regions.

    Raises: UsageError: it is not among them.
    """
    if "scene" not in labels:
        raise UsageError(
            "the regions do not include the whole image, labelled 'scene'. Build their store with "
            "--detector regions --max-objects 128."
        )
    return list(labels).index("scene")
