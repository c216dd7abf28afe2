"""Structure-level matching of GSMN: matching vectors travel along the edges, then become a score.

Matching vectors of words are (C, T, I, t) here and those of regions (I, t, C, R). Words have one
matrix of edges for all features, regions one for each kernel: so laid out, linear layers and
propagation of either side are a few large matrix products without copies.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["MatchingHead", "Propagation", "RegionConvolution", "TextKernelNorm", "WordConvolution"]

Propagation = Literal["paper", "official"]
"""``paper``: a node receives its neighbours; ``official``: copies of itself, as released."""

TextKernelNorm = Literal["official", "none"]
"""``official``: edges of a word sum to one, so a kernel's scale cancels; ``none``: it counts."""


def _across(vectors: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a (out, in) matrix to the second axis, as ``linear`` does to the last."""
    weight, flat = weight.expand(len(vectors), -1, -1), vectors.flatten(2)
    if bias is None:
        out = torch.bmm(weight, flat)
    else:
        out = torch.baddbmm(bias.view(1, -1, 1), weight, flat)
    return out.view(len(vectors), -1, *vectors.shape[2:])


class WordConvolution(nn.Module):
    """Graph convolution over the words of each caption, GSMN Eq. (6)."""

    def __init__(
        self,
        width: int,
        kernels: int,
        kernel_dim: int,
        propagation: Propagation,
        kernel_norm: TextKernelNorm,
    ) -> None:
        super().__init__()
        self.propagation = propagation
        self.kernel_dim = kernel_dim
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(kernels * kernel_dim, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(kernels * kernel_dim).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.rand(kernels) * 2 - 1) if kernel_norm == "none" else None

    def forward(self, vectors: Tensor, edges: Tensor) -> Tensor:
        """Convolve (C, T, I, t) matching vectors along (C, T, T) edges to (C, T, I, K * k)."""
        if self.scale is None:
            edges = edges / edges.sum(-1, keepdim=True).clamp_min(1e-30)
        if self.propagation == "paper":
            vectors = torch.bmm(edges, vectors.flatten(2)).view_as(vectors)
        else:
            vectors = vectors * edges.sum(-1)[:, :, None, None]
        weight: Tensor = self.weight
        if self.scale is not None:
            weight = weight * self.scale.repeat_interleave(self.kernel_dim).unsqueeze(1)
        return linear(vectors, weight, self.bias)


class RegionConvolution(nn.Module):
    """Graph convolution over the regions of each image, GSMN Eq. (6)."""

    def __init__(
        self, width: int, kernels: int, kernel_dim: int, propagation: Propagation, *, bias: bool
    ) -> None:
        super().__init__()
        self.propagation = propagation
        self.kernels = kernels
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(kernels * kernel_dim, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(kernels * kernel_dim)) if bias else None

    def forward(self, vectors: Tensor, edges: Tensor) -> Tensor:
        """Convolve (I, t, C, R) matching vectors along (I, K, R, R) edges to (I, K * k, C, R)."""
        hidden = _across(vectors, self.weight)
        if self.propagation == "paper":
            rows = hidden.view(len(edges) * self.kernels, -1, edges.shape[-1])  # (I K, k C, R)
            mixed = torch.bmm(rows, edges.flatten(0, 1).transpose(1, 2))
            hidden = mixed.view_as(hidden)
        else:
            own = hidden.unflatten(1, (self.kernels, -1))  # (I, K, k, C, R)
            hidden = (own * edges.sum(-1)[:, :, None, None]).flatten(1, 2)
        shifted: Tensor = hidden if self.bias is None else hidden + self.bias.view(-1, 1, 1)
        return shifted


class MatchingHead(nn.Module):
    """Two weight-normalised layers and the mean over nodes, GSMN Eq. (7)-(8)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = weight_norm(nn.Linear(width, hidden))
        self.outer = weight_norm(nn.Linear(hidden, 1))

    def forward(self, vectors: Tensor, features: Literal[1, -1]) -> Tensor:
        """Turn matching vectors, their features on axis 1 or the last, into scores of the nodes.

        With tanh(x) = 2 sigmoid(2 x) - 1, since a processor computes a sigmoid much faster.

        Returns:
            (B, ...) for (B, t, ...), or (...) for (..., t).
        """
        layer = _across if features == 1 else linear
        outer = self.outer.weight
        gates = layer(vectors, 2 * self.inner.weight, 2 * self.inner.bias).sigmoid()
        scores: Tensor = layer(gates, 2 * outer, self.outer.bias - outer.sum(1))
        return scores.squeeze(features)
