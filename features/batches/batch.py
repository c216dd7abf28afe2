"""Batches of images and captions as models see them: padded and masked tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Moves:
    """Add ``to`` and ``index`` to a dataclass of tensors."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the same batch with every tensor on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def index(self, rows: Tensor | slice) -> Self:
        """Return the batch restricted to ``rows`` of its first axis."""
        return self._map(lambda tensor: tensor[rows])

    def _map(self, change: object) -> Self:
        values = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            values[item.name] = change(value) if hasattr(value, "to") else value  # type: ignore[operator]
        return type(self)(**values)


@dataclass(frozen=True, eq=False)
class ImageBatch(_Moves):
    """B images with up to K objects and R relations each.

    Ids are those of the batch's ``Codebook``: 0 is padding, 1 is unknown.
    """

    rows: Tensor  # (B,) int64, row of each image in the store
    objects: Tensor  # (B, K, D) float, region features; zeros where padded
    object_mask: Tensor  # (B, K) bool, True where an object is real
    boxes: Tensor  # (B, K, 4) float32, xyxy divided by width and height: [0, 1]
    labels: Tensor  # (B, K) int64, label of each object
    scores: Tensor  # (B, K) float32, detector scores
    unions: Tensor  # (B, R, D) float, features of the union box of each relation
    union_boxes: Tensor  # (B, R, 4) float32, like boxes
    relations: Tensor  # (B, R, 2) int64, subject and object row in 0..K-1; zeros where padded
    predicates: Tensor  # (B, R) int64, predicate of each relation
    relation_mask: Tensor  # (B, R) bool, True where a relation is real
    sizes: Tensor  # (B, 2) float32, width and height in pixels
    relation_scores: Tensor | None = None  # (B, R) float32
    # (B, A) int64 ids of words, 0 where padded; None if no object of the store has an attribute
    attributes: Tensor | None = None
    attribute_objects: Tensor | None = None  # (B, A) int64, row of its object; 0 where padded
    attribute_scores: Tensor | None = None  # (B, A) float32, probability; 0 where padded


@dataclass(frozen=True, eq=False)
class CaptionBatch(_Moves):
    """C captions with up to T words, P triplets of up to L words each.

    Position 0 of every row of words is ``<start>``, the last real position is ``<end>``. Token i
    of a caption is word i + 1, and ``heads`` counts words.
    """

    rows: Tensor  # (C,) int64, row of each caption in the store
    image_rows: Tensor  # (C,) int64, row of the image each caption describes
    words: Tensor  # (C, T) int64, <start> w1 .. wn <end>, 0 where padded
    word_mask: Tensor  # (C, T) bool, True on <start>, words and <end>
    tags: Tensor  # (C, T) int64, XPOS (PTB) ids; 0 where padded, 1 on <start> and <end>
    roles: Tensor  # (C, T) int64: 0 pad, 1 object, 2 attribute, 3 relation, 4 other
    heads: Tensor  # (C, T) int64, position of the head, -1 for roots, <start>, <end>, padding
    # (C, P, L) int64, <start> subject predicate object <end>, each one or more words
    triplets: Tensor
    # (C, P, 3) int64, words of subject, predicate and object; 0 = no triplet
    triplet_spans: Tensor
    # (C, S) int64, word pieces with [CLS] and [SEP], if the codebook has them
    pieces: Tensor | None = None
    # (C, S) int64, word that a piece belongs to, -1 on padding
    piece_words: Tensor | None = None

    @property
    def triplet_mask(self) -> Tensor:
        """(C, P) bool, True where a triplet is real."""
        return self.triplet_spans.sum(-1) > 0

    @property
    def lengths(self) -> Tensor:
        """(C,) int64, number of words with <start> and <end>."""
        return self.word_mask.sum(-1)
