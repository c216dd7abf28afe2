"""The records that the packages exchange, with their shapes and units.

Boxes are ``xyxy`` float32 in pixels of the original image after EXIF rotation. Token heads are
0-based within the caption, -1 for a root. Ids are strings; rows are ints.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import numpy.typing as npt

from features.inline import boxes_svg, tree_svg

__all__ = [
    "Caption",
    "Detections",
    "ImageEntry",
    "LazyImages",
    "SceneGraph",
    "Skipped",
    "TextGraph",
    "union_boxes",
]

Float32 = npt.NDArray[np.float32]
INLINE_OBJECTS, INLINE_RELATIONS = 12, 8  # at most drawn in a notebook


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of a data set: id and text, with HTML entities unescaped."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image of a data set: id, file in the images folder, split and captions."""

    id: str
    file: str
    split: str
    captions: tuple[Caption, ...] = ()


class LazyImages(Sequence[ImageEntry]):
    """Images that are made when they are asked for; subclasses define the length and ``_read``."""

    @abstractmethod
    def _read(self, row: int) -> ImageEntry:
        """Return the image of a row, at least 0 and below the length."""

    @overload
    def __getitem__(self, at: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, at: slice) -> list[ImageEntry]: ...
    def __getitem__(self, at: int | slice) -> ImageEntry | list[ImageEntry]:
        """Return one image, or a list of them. Raises: IndexError: no such row."""
        rows = range(len(self))[at]
        return [self._read(row) for row in rows] if isinstance(rows, range) else self._read(rows)

    def __iter__(self) -> Iterator[ImageEntry]:
        """Yield the images in row order."""
        return map(self._read, range(len(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects and relations that a detector found in an image, best first.

    Attributes:
        boxes: (n, 4) float32, xyxy pixels, clipped to the image.
        labels: n labels.
        scores: (n,) float32 in [0, 1]; ones if the source has no scores.
        size: (width, height) of the image in pixels, after EXIF rotation.
        features: (n, D) float32, or None if the detector does not provide region features.
        attributes: n tuples of attributes, or None if the detector does not provide them.
        attribute_scores: n tuples of the attributes' probabilities, or None.
        shown, relations_shown: scores from which displays show an object or a relation; 0 if the
            scores are not calibrated.
        relations: (subject row, predicate, object row), best first, or None if the detector does
            not provide them. An empty tuple means that the image has none.
        relation_scores: (m,) float32, or None.
    """

    boxes: Float32
    labels: tuple[str, ...]
    scores: Float32
    size: tuple[int, int]
    features: Float32 | None = None
    attributes: tuple[tuple[str, ...], ...] | None = None
    relations: tuple[tuple[int, str, int], ...] | None = None
    relation_scores: Float32 | None = None
    attribute_scores: tuple[tuple[float, ...], ...] | None = None
    shown: float = 0.0
    relations_shown: float = 0.0

    def select(self, rows: Iterable[int]) -> Detections:
        """Return the objects in ``rows``, in that order, and the relations among them."""
        keep = list(rows)
        place = {row: at for at, row in enumerate(keep)}
        relations, relation_scores = self.relations, self.relation_scores
        if relations is not None:
            kept = [i for i, (s, _, o) in enumerate(relations) if s in place and o in place]
            relation_scores = None if relation_scores is None else relation_scores[kept]
            relations = tuple((place[s], p, place[o]) for s, p, o in (relations[i] for i in kept))
        return Detections(
            boxes=self.boxes[keep].reshape(-1, 4),
            labels=tuple(self.labels[row] for row in keep),
            scores=self.scores[keep],
            size=self.size,
            features=None if self.features is None else self.features[keep],
            attributes=None if self.attributes is None else tuple(self.attributes[r] for r in keep),
            relations=relations,
            relation_scores=relation_scores,
            attribute_scores=(
                None
                if self.attribute_scores is None
                else tuple(self.attribute_scores[r] for r in keep)
            ),
            shown=self.shown,
            relations_shown=self.relations_shown,
        )

    def first(self, count: int) -> Detections:
        """Return the first ``count`` objects and the relations among them."""
        return self if len(self.labels) <= count else self.select(range(count))


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image without a graph, and the reason why."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class SceneGraph:
    """The visual scene graph of one image.

    Attributes:
        image_id: the image's id.
        size: (width, height) in pixels.
        boxes: (n, 4) float32, xyxy pixels.   labels: n labels.   scores: (n,) float32.
        relations: m (subject row, predicate, object row), best first.
        relation_scores: (m,) float32.
        union_boxes: (m, 4) float32, the smallest box around subject and object.
        attributes: n tuples of attributes (empty where unknown).
        attribute_scores: their probabilities, or None if the store has none.
        shown, relations_shown: scores from which displays show an object or a relation; 0 if the
            scores are not calibrated.
    """

    image_id: str
    size: tuple[int, int]
    boxes: Float32
    labels: tuple[str, ...]
    scores: Float32
    relations: tuple[tuple[int, str, int], ...]
    relation_scores: Float32
    union_boxes: Float32
    attributes: tuple[tuple[str, ...], ...] = ()
    attribute_scores: tuple[tuple[float, ...], ...] | None = None
    shown: float = 0.0
    relations_shown: float = 0.0

    def _repr_svg_(self) -> str:
        """Draw the graph in a notebook: what is sure enough to be shown, best first."""
        rows = [row for row, score in enumerate(self.scores) if score >= self.shown]
        rows = rows[:INLINE_OBJECTS]
        place = {row: at for at, row in enumerate(rows)}
        relations = [
            (place[subject], predicate, place[target])
            for (subject, predicate, target), score in zip(
                self.relations, self.relation_scores, strict=True
            )
            if score >= self.relations_shown and {subject, target} <= place.keys()
        ]
        labels = [self.labels[row] for row in rows]
        return boxes_svg(self.size, self.boxes[rows], labels, relations[:INLINE_RELATIONS])


@dataclass(frozen=True, slots=True)
class TextGraph:
    """A parsed caption: its tokens, dependency graph and SPICE-style scene graph.

    Attributes:
        caption: text of the caption.
        tokens, lemmas, upos, xpos, deprels: one string per token.
        heads: 0-based head of each token, -1 for a root (one per sentence).
        roles: ``object``, ``attribute``, ``relation`` or ``other``, per token.
        objects: lemma of each object node.
        object_positions: token positions of each object's mentions; the first is its head token.
        attributes: (object lemma, attribute) pairs.
        attribute_objects: row in ``objects`` of each attribute.
        attribute_positions: token position of each attribute, -1 if it has no token of its own.
        relations: (subject row, predicate, object row) into ``objects``, like ``SceneGraph``.
        relation_positions: token positions of each predicate (empty for an implied ``have``).
        scheme: dependency scheme of ``heads`` and ``deprels``.
        problem: why the caption could not be parsed as it is (``empty``, ``too long`` ...), or "".
        sentence_starts: first token of each sentence.
    """

    caption: str
    tokens: tuple[str, ...] = ()
    lemmas: tuple[str, ...] = ()
    upos: tuple[str, ...] = ()
    xpos: tuple[str, ...] = ()
    heads: tuple[int, ...] = ()
    deprels: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    object_positions: tuple[tuple[int, ...], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    attribute_objects: tuple[int, ...] = ()
    attribute_positions: tuple[int, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()
    relation_positions: tuple[tuple[int, ...], ...] = ()
    scheme: str = "ud"
    problem: str = ""
    sentence_starts: tuple[int, ...] = field(default=(0,))

    @property
    def triplets(self) -> list[tuple[str, str, str]]:
        """(subject, predicate, object) in lemmas, one per relation."""
        return [(self.objects[s], p, self.objects[o]) for s, p, o in self.relations]

    def _repr_svg_(self) -> str:
        """Draw the dependency tree in a notebook, with triplets and attributes below."""
        lines = [" - ".join(triplet) for triplet in self.triplets]
        lines += [f"{attribute} {noun}" for noun, attribute in self.attributes]
        return tree_svg(self.tokens, self.heads, lines)


def union_boxes(
    boxes: Float32, pairs: Sequence[tuple[int, int]] | npt.NDArray[np.integer]
) -> Float32:
    """Return the smallest box around the two boxes of each pair.

    Args:
        boxes: (n, 4) xyxy.
        pairs: m (subject row, object row).

    Returns:
        (m, 4) float32 xyxy.
    """
    rows = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    both = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[rows]  # (m, 2, 4)
    return np.concatenate([both[..., :2].min(1), both[..., 2:].max(1)], axis=1)
