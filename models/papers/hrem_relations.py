"""The cross-embedding association graph of HREM: who is connected, and how relevant."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, leaky_relu

from models.nn.layers import l2norm

__all__ = [
    "Blocks",
    "FragmentMatching",
    "attention_bias",
    "closeness",
    "nearest",
    "regularization_loss",
]


class Blocks(NamedTuple):
    """The four N x N blocks of a relation matrix, HREM Eq. (4)."""

    i2i: Tensor
    i2t: Tensor
    t2i: Tensor
    t2t: Tensor

    def joined(self) -> Tensor:
        """Return the (2 N, 2 N) matrix, images first."""
        upper = torch.cat([self.i2i, self.i2t], 1)
        return torch.cat([upper, torch.cat([self.t2i, self.t2t], 1)])


def nearest(similar: Tensor, share: float) -> Tensor:
    """Connect each row to its nearest columns, HREM Eq. (5)-(6).

    Args:
        similar: (N, M) similarities.
        share: tau, the part of the columns that is connected; at least one, ties included.

    Returns:
        (N, M) bool.
    """
    k = max(1, int(share * similar.shape[1]))
    return similar >= similar.topk(k, dim=1).values[:, -1:]


def closeness(one: Tensor, other: Tensor, distance: Literal["l2", "squared"]) -> Tensor:
    """Turn distances of embeddings into relevance, HREM Eq. (10).

    sigma is 1. The paper squares the distance, the released code does not; the paper also swaps
    the letters of the two modalities, which cannot be meant.
    """
    square = (one.unsqueeze(1) - other.unsqueeze(0)).square().sum(-1)
    if distance == "l2":
        square = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
    return torch.exp(-square)


class FragmentMatching(nn.Module):
    """Relevance between images and captions from their best matching fragments.

    Args:
        topk: K scores that the MLPs read.
        normalised: similarities pass LeakyReLU and an L2 norm over the attending side as in
            stacked cross attention (released code); False: plain products as in the paper.
        official_pad: pads of short captions and of images take part as in the released code.
    """

    def __init__(self, topk: int, *, normalised: bool, official_pad: bool) -> None:
        super().__init__()
        self.topk = topk
        self.normalised = normalised
        self.official_pad = official_pad
        self.i2t = nn.Sequential(nn.Linear(topk, topk), nn.ReLU(), nn.Linear(topk, 1))
        self.t2i = nn.Sequential(nn.Linear(topk, topk), nn.ReLU(), nn.Linear(topk, 1))
        self.t2i.load_state_dict(self.i2t.state_dict())  # both start alike

    def forward(
        self, regions: Tensor, region_mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Match fragments of all pairs, HREM Eq. (7)-(9).

        Args:
            regions: (I, R, d).   region_mask: (I, R) bool.
            words: (C, T, d).   word_mask: (C, T) bool.

        Returns:
            Matching values p (i2t, then t2i) and relevances s (i2t, then t2i); the first and
            third are (I, C), the others (C, I).
        """
        regions, words = regions.detach(), words.detach()
        counted = word_mask
        if self.official_pad:
            region_mask = torch.ones_like(region_mask)
            positions = torch.arange(words.shape[1], device=words.device)
            counted = word_mask | (positions < self.topk)
        if self.normalised:
            regions, words = l2norm(regions), l2norm(words)
        products = torch.einsum("ird,ctd->icrt", regions, words)
        pair = region_mask[:, None, :, None] & counted[None, :, None, :]
        if self.normalised:
            products = leaky_relu(products, 0.1).masked_fill(~pair, 0.0)
        over_regions, over_words = products, products
        if self.normalised:
            over_regions = l2norm(products, dim=2)
            over_words = l2norm(products, dim=3)
        lowest = torch.finfo(products.dtype).min
        exact = pair & word_mask[None, :, None, :]
        i2t = over_regions.masked_fill(~exact, lowest).amax(3)  # (I, C, R)
        t2i = over_words.masked_fill(~pair, lowest).amax(2).transpose(0, 1)  # (C, I, T)
        real = region_mask[:, None]  # (I, 1, R)
        p_i2t = _mean(i2t, real)
        p_t2i = _mean(t2i, word_mask[:, None])
        s_i2t = self.i2t(self._largest(i2t, real)).squeeze(-1) + p_i2t
        s_t2i = self.t2i(self._largest(t2i, counted[:, None])).squeeze(-1) + p_t2i
        return p_i2t, p_t2i, s_i2t, s_t2i

    def _largest(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the K largest real scores, descending; zeros where there are fewer."""
        lowest = torch.finfo(scores.dtype).min
        k = min(self.topk, scores.shape[-1])
        best = scores.masked_fill(~mask, lowest).topk(k, dim=-1).values
        best = best.masked_fill(best == lowest, 0.0)
        return torch.nn.functional.pad(best, (0, self.topk - k))


def _mean(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp_min(1)


def attention_bias(connected: Tensor | None, relevance: Tensor | None, weight: float) -> Tensor:
    """Write connection and relevance as one bias for ``Attention``; either may be left out.

    Args:
        connected: bool matrix A, None: everything is connected.
        relevance: matrix S, None: no bias.
        weight: lambda.
    """
    if relevance is None:
        if connected is None:
            return torch.zeros(())
        relevance = torch.zeros_like(connected, dtype=torch.get_default_dtype())
    bias = weight * relevance
    if connected is None:
        return bias
    return bias.masked_fill(~connected, torch.finfo(bias.dtype).min)


def regularization_loss(learned: Tensor, given: Tensor) -> Tensor:
    """Keep learned relevance near that of the embeddings, one half of HREM Eq. (11).

    Args:
        learned: (N, N) relevance S between modalities.
        given: (N, N) relevance S^g of the global embeddings, without gradient.
    """
    return kl_div(given.detach().log_softmax(1), learned.softmax(1), reduction="batchmean")
