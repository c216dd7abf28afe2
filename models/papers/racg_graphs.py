"""The integrated graph of RACG: regions and words of one pair, related within and across."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.nn.layers import masked_softmax

__all__ = [
    "CrossNodes",
    "RelationMaps",
    "both_sides",
    "cross_words",
    "degrees",
    "reconstruct",
    "relate",
]

CrossNodes = Literal["nouns_attributes", "nouns", "all"]
"""Words that regions connect to; the paper's Fig. 8 compares the three."""


class RelationMaps(nn.Module):
    """Head and tail mapping functions kappa and mu, RACG Eq. (5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kappa, self.mu = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.kappa, self.mu):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)


def relate(maps: RelationMaps, heads: Tensor, tails: Tensor, neighbours: Tensor) -> Tensor:
    """Spread each head's attention over its neighbours, RACG Eq. (6)-(9).

    Eq. (6) relates regions to regions and Eq. (7) words to words. Eq. (8) and Eq. (9) are printed
    alike; they are read as region to words and word to regions.

    Args:
        maps: kappa and mu.
        heads: (..., N, d) receiving nodes.
        tails: (..., M, d) sending nodes.
        neighbours: (..., N, M) bool.

    Returns:
        (..., N, M) weights; rows sum to 1, or are 0 without a neighbour.
    """
    products = maps.kappa(heads) @ maps.mu(tails).transpose(-1, -2)
    return masked_softmax(products, neighbours)


def cross_words(roles: Tensor, mask: Tensor, nodes: CrossNodes) -> Tensor:
    """Return which words take part in cross-graph relations.

    Args:
        roles: (C, T) int64, 1 object, 2 attribute.
        mask: (C, T) bool.
        nodes: which roles do.

    Returns:
        (C, T) bool.
    """
    if nodes == "all":
        return mask
    if nodes == "nouns":
        return mask & (roles == 1)
    return mask & ((roles == 1) | (roles == 2))


def reconstruct(nodes: Tensor, aggregated: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Rebuild each node from the aggregated nodes of both modalities, RACG Eq. (12)-(14).

    Args:
        nodes: (B, N, d) input nodes h of both modalities.
        aggregated: (B, N, d) nodes c, not yet of unit length.
        mask: (B, N) bool.
        scale: the factor lambda.

    Returns:
        (B, N, d).
    """
    length = aggregated.square().sum(-1).clamp_min(1e-24).sqrt() + 1e-8  # (B, N)
    similar = torch.bmm(nodes, aggregated.transpose(1, 2)) * (scale / length).unsqueeze(1)
    weights = masked_softmax(similar, mask.unsqueeze(1)) / length.unsqueeze(1)
    return torch.bmm(weights, aggregated)


def both_sides(images: Tensor, captions: Tensor) -> Tensor:
    """Stand (I, R, d) region rows and (C, T, d) word rows together for all pairs."""
    return torch.cat(
        [
            images[None].expand(len(captions), -1, -1, -1),
            captions[:, None].expand(-1, len(images), -1, -1),
        ],
        dim=2,
    )


def degrees(regions: Tensor, words: Tensor, cross: Tensor, *, within_regions: bool) -> Tensor:
    """Count the neighbours of every node of every pair, for the literal RACG Eq. (11).

    Args:
        regions: (I, R) bool, real ones.   words: (C, T, T) bool, neighbours among words.
        cross: (C, T) bool, words with relations to all regions.
        within_regions: whether regions are neighbours of each other.

    Returns:
        (C, I, R + T), regions first.
    """
    n_o, across = regions.sum(1), cross.sum(1, keepdim=True)  # (I,), (C, 1)
    of_regions = (n_o * within_regions + across).unsqueeze(-1)  # (C, I, 1)
    of_words = words.sum(-1)[:, None] + cross[:, None] * n_o[None, :, None]  # (C, I, T)
    return torch.cat([of_regions.expand(-1, -1, regions.shape[1]), of_words], 2)
