"""The two graphs that GSMN matches: weighted edges between words, polar kernels between regions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["PolarKernels", "polar_coordinates", "text_adjacency", "text_edges"]


def text_adjacency(heads: Tensor, word_mask: Tensor, *, dense: bool = False) -> Tensor:
    """Return which words share an edge: dependents and heads, and each word with itself.

    Args:
        heads: (C, T) int64, position of each word's head, -1 without one.
        word_mask: (C, T) bool.
        dense: connect all real words of a caption instead.

    Returns:
        (C, T, T) bool, symmetric; False wherever a pad takes part.
    """
    real = word_mask.unsqueeze(2) & word_mask.unsqueeze(1)
    if dense:
        return real
    positions = torch.arange(heads.shape[1], device=heads.device)
    arcs = heads.unsqueeze(2) == positions  # (C, T, T): word t has head j
    itself = torch.eye(heads.shape[1], dtype=torch.bool, device=heads.device)
    return (arcs | arcs.transpose(1, 2) | itself) & real


def text_edges(words: Tensor, word_mask: Tensor, adjacency: Tensor, scale: float) -> Tensor:
    """Weigh the edges between words by their similarity, GSMN Eq. (1)-(2).

    Eq. (1) is a softmax over all words of the caption, Eq. (2) keeps the edges of the graph and
    divides each row by its L2 norm.

    Args:
        words: (C, T, d) word vectors of unit length.
        word_mask: (C, T) bool.
        adjacency: (C, T, T) bool.
        scale: the factor lambda.

    Returns:
        (C, T, T) weights, row i holds the neighbours of word i.
    """
    similar = scale * words @ words.transpose(1, 2)
    lowest = torch.finfo(similar.dtype).min
    weights = similar.masked_fill(~word_mask.unsqueeze(1), lowest).softmax(-1) * adjacency
    return weights / (weights.square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt() + 1e-8)


def polar_coordinates(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance and angle between the centres of all boxes (GSMN section 3.1).

    Args:
        boxes: (I, R, 4) xyxy, divided by width and height.

    Returns:
        ``rho`` and ``theta``, both (I, R, R); entry (i, j) looks from region j to region i.
        The angle is measured from the y axis, in (-pi, pi].
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    offset = centre.unsqueeze(2) - centre.unsqueeze(1)  # (I, R, R, 2)
    return offset.norm(dim=-1), torch.atan2(offset[..., 0], offset[..., 1])


class PolarKernels(nn.Module):
    """Gaussian mixture over polar coordinates: the edge weight W_e of the visual graph.

    The paper names the pair (rho, theta) itself as the weight, which a sum cannot use; the mixture
    of MoNet, that the released code takes too, turns it into one weight for each kernel.
    """

    def __init__(self, kernels: int) -> None:
        super().__init__()
        self.mean_rho = nn.Parameter(torch.rand(kernels))
        self.mean_theta = nn.Parameter((torch.rand(kernels) * 2 - 1) * math.pi)
        self.precision_rho = nn.Parameter(torch.rand(kernels))
        self.precision_theta = nn.Parameter(torch.rand(kernels))

    def forward(self, boxes: Tensor, region_mask: Tensor) -> Tensor:
        """Return (I, K, R, R): weight of region j (last axis) for region i; kernels sum to 1."""
        rho, theta = (part.unsqueeze(1) for part in polar_coordinates(boxes.to(self.mean_rho)))

        def per_kernel(parameter: Tensor) -> Tensor:
            return parameter.view(1, -1, 1, 1)

        turn = (theta - per_kernel(self.mean_theta)).abs()
        turn = torch.minimum(turn, (2 * math.pi - turn).abs())
        weights = torch.exp(
            -((rho - per_kernel(self.mean_rho)) ** 2)
            / (2 * (1e-14 + per_kernel(self.precision_rho) ** 2))
        ) * torch.exp(-(turn**2) / (2 * (1e-14 + per_kernel(self.precision_theta) ** 2)))
        total = weights.sum(1, keepdim=True)
        # far from every mean all kernels underflow: such a pair has no edge
        share = weights / total.where(total > 0, 1.0)
        return share * region_mask[:, None, None, :]
