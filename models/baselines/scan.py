"""SCAN: Stacked Cross Attention for Image-Text Matching (Lee et al., ECCV 2018).

Each query (a word for ``t2i``, a region for ``i2t``) attends to the other side. The cosines of the
queries with what they attended to are pooled to a score. The attended mix c = sum_k a_k v_k is
never built: q.c = sum_k a_k (q.v_k), and |c|^2 = a^T G a with the Gram matrix G of the attended
side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from features.batches import CaptionBatch, ImageBatch
from models.nn import (
    GruText,
    TripletNetwork,
    TripletOptions,
    cosine,
    l2norm,
    masked_l2norm,
    masked_softmax,
    score_in_tiles,
    xavier_linear,
)
from models.registry import WordRegions, register

Norm = Literal[
    "softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "no_norm"
]
Pool = Literal["log_sum_exp", "mean", "max", "sum"]


@dataclass(frozen=True)
class ScanOptions(TripletOptions):
    """Options of SCAN."""

    direction: Literal["t2i", "i2t"] = "t2i"
    """``t2i``: words attend to regions; ``i2t``: regions attend to words."""
    norm: Norm = "clipped_l2norm"
    """How the similarities of one source are normalised over the queries."""
    pool: Pool = "mean"
    """How the cosines of the queries become one score."""
    attention_scale: float | None = None
    """lambda of the softmax; None: 9 for ``t2i``, 4 for ``i2t``."""
    pool_scale: float | None = None
    """lambda of ``log_sum_exp``; None: 6 for ``t2i``, 5 for ``i2t``."""


class ScanImages(NamedTuple):
    """Regions of I images."""

    regions: Tensor  # (I, K, D), unit length, zeros where padded
    mask: Tensor  # (I, K) bool


class ScanCaptions(NamedTuple):
    """Words of C captions."""

    words: Tensor  # (C, T, D), unit length, zeros where padded
    mask: Tensor  # (C, T) bool


def attention_logits(scores: Tensor, norm: Norm, dim: int, mask: Tensor, scale: float) -> Tensor:
    """Normalise similarities over the queries and scale them.

    Args:
        scores: similarities, 0 where padded.   norm: see ``ScanOptions.norm``.
        dim: axis of the queries.   mask: bool, broadcastable, True = a real query.
        scale: lambda of the softmax that follows.
    """
    if norm == "softmax":
        return masked_softmax(scores, mask, dim) * scale
    if norm.startswith("clipped"):
        scores = leaky_relu(scores, 0.1)
    if norm.endswith("l2norm"):
        return l2norm(scores, dim, scale=scale)
    if norm.endswith("l1norm"):
        return scores * (scale / (scores.abs().sum(dim, keepdim=True) + 1e-8))
    return scores * scale


def pool_queries(cosines: Tensor, mask: Tensor, dim: int, pool: Pool, scale: float) -> Tensor:
    """Pool the cosines of real queries along ``dim``; 0 where there is none."""
    some = mask.any(dim)
    if pool == "log_sum_exp":
        pooled = (cosines * scale).masked_fill(~mask, -torch.inf).logsumexp(dim) / scale
    elif pool == "max":
        pooled = cosines.masked_fill(~mask, -torch.inf).amax(dim)
    else:
        pooled = cosines.masked_fill(~mask, 0.0).sum(dim)
        if pool == "mean":
            pooled = pooled / mask.sum(dim).clamp(min=1)
    return pooled.masked_fill(~some, 0.0)


@register("scan", ScanOptions)
class Scan(TripletNetwork[ScanOptions]):
    """Stacked cross attention in one direction; average the scores of two models for both."""

    reads_unions = False

    def __init__(self, options: ScanOptions) -> None:
        super().__init__(options)
        o = options
        self.fc = xavier_linear(o.image_dim, o.embed_dim)
        self.text = GruText(o.vocab_size, o.word_dim, o.embed_dim)
        self.word_tables = (self.text.embed,)
        attention, pool = (9.0, 6.0) if o.direction == "t2i" else (4.0, 5.0)
        self.attention_scale = attention if o.attention_scale is None else o.attention_scale
        self.pool_scale = pool if o.pool_scale is None else o.pool_scale

    def encode_images(self, images: ImageBatch) -> ScanImages:
        """Project regions to unit vectors."""
        regions, mask = self.fc(images.objects.to(self.fc.weight.dtype)), images.object_mask
        return ScanImages(masked_l2norm(regions, mask), mask)

    def encode_captions(self, captions: CaptionBatch) -> ScanCaptions:
        """Encode words to unit vectors."""
        words = l2norm(self.text(captions.words, captions.word_mask))
        return ScanCaptions(words, captions.word_mask)

    def score(self, images: ScanImages, captions: ScanCaptions) -> Tensor:
        """Score all pairs, tile by tile: (I, C)."""

        def cut_images(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
            regions = images.regions[rows]
            return regions, images.mask[rows], regions @ regions.transpose(1, 2)  # (n, K, K)

        return score_in_tiles(
            images.mask,
            captions.mask,
            4 * 3 * images.mask.shape[1] * captions.mask.shape[1],  # s, a and a product
            cut_images=cut_images,
            cut_captions=lambda rows, n: (captions.words[rows, :n], captions.mask[rows, :n]),
            score=lambda image, text: self._score_tile(*image, *text),
        )

    def _score_tile(
        self, regions: Tensor, mask: Tensor, gram: Tensor, words: Tensor, word_mask: Tensor
    ) -> Tensor:
        """Return the (n, C) scores of one tile.

        The softmax needs no mask: pads are zero vectors, so their share of the weights only
        shortens the mix, and the cosine does not depend on its length.

        Args:
            regions: (n, K, D).   mask: (n, K).   gram: (n, K, K).
            words: (C, T, D).   word_mask: (C, T).
        """
        (n, K), (C, T) = mask.shape, word_mask.shape
        flat = words.reshape(C * T, -1)
        s = flat @ regions.reshape(n * K, -1).T  # (C T, n K)
        s = s.view(C, T, n, K)
        norm, scale = self.options.norm, self.attention_scale
        on_words, on_regions = word_mask.view(C, T, 1, 1), mask.view(1, 1, n, K)
        if self.options.direction == "t2i":
            a = torch.softmax(attention_logits(s, norm, 1, on_words, scale), -1)
            top = (a * s).sum(-1)  # (C, T, n), q.c
            mixed = torch.bmm(a.view(C * T, n, K).transpose(0, 1), gram)  # (n, C T, K)
            square = (mixed.transpose(0, 1).view_as(a) * a).sum(-1)  # |c|^2
            length = torch.linalg.vector_norm(words, dim=-1).unsqueeze(-1)  # (C, T, 1)
            queries, axis = on_words.squeeze(-1), 1
        else:
            a = torch.softmax(attention_logits(s, norm, 3, on_regions, scale), 1)
            top = (a * s).sum(1)  # (C, n, K)
            mixed = (words @ words.transpose(1, 2)) @ a.view(C, T, n * K)
            square = (mixed.view_as(a) * a).sum(1)
            length = torch.linalg.vector_norm(regions, dim=-1).unsqueeze(0)  # (1, n, K)
            queries, axis = on_regions.squeeze(1), 2
        cosines = top / (length * square.clamp(min=1e-16).sqrt()).clamp(min=1e-8)
        return pool_queries(cosines, queries, axis, self.options.pool, self.pool_scale).T

    def word_regions(self, images: ScanImages, captions: ScanCaptions) -> WordRegions:
        """Return the attention between the words and regions of one pair.

        In direction ``i2t`` a column sums to 1: regions attend to words.
        """
        words, regions = captions.words[0], images.regions[0]
        mask, word_mask = images.mask[0], captions.mask[0]
        s = (words @ regions.T).unsqueeze(0)  # (1, T, R)
        norm, scale = self.options.norm, self.attention_scale
        if self.options.direction == "t2i":
            logits = attention_logits(s, norm, 1, word_mask.view(1, -1, 1), scale)
            weights = masked_softmax(logits, mask.view(1, 1, -1), 2)
        else:
            logits = attention_logits(s, norm, 2, mask.view(1, 1, -1), scale)
            weights = masked_softmax(logits, word_mask.view(1, -1, 1), 1)
        return WordRegions("words", weights[0] * mask, "attention")

    def plain_score(self, images: ScanImages, captions: ScanCaptions) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        words = captions.words[0][captions.mask[0]]  # (T, D)
        words = words.unsqueeze(0).repeat(len(images.regions), 1, 1)  # (I, T, D)
        all_words = words.new_ones(words.shape[:2], dtype=torch.bool)
        if self.options.direction == "t2i":
            query, query_mask, source, source_mask = words, all_words, *images
        else:
            query, query_mask, source, source_mask = *images, words, all_words
        s = torch.bmm(source, query.transpose(1, 2))  # (I, S, Q)
        mask = query_mask.unsqueeze(1)
        a = attention_logits(s, self.options.norm, 2, mask, self.attention_scale)
        a = masked_softmax(a.transpose(1, 2), source_mask.unsqueeze(1))  # (I, Q, S)
        attended = torch.bmm(a, source)  # (I, Q, D)
        cosines = cosine(query, attended)
        return pool_queries(cosines, query_mask, 1, self.options.pool, self.pool_scale).unsqueeze(1)
