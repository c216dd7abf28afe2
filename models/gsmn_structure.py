"""Structure-level matching of GSMN: matching vectors travel along the edges, then become a score.

Matching vectors keep their features on the first axis here: (t, captions, ..., images, ...), as
the node-level matching makes them, so every linear layer is one matrix product without copies.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["MatchingHead", "Propagation", "RegionConvolution", "TextKernelNorm", "WordConvolution"]

Propagation = Literal["paper", "official"]
"""``paper``: a node receives its neighbours; ``official``: copies of itself, as released."""

TextKernelNorm = Literal["official", "none"]
"""``official``: edges of a word sum to one, so a kernel's scale cancels; ``none``: it counts."""


def _across(weight: Tensor, vectors: Tensor) -> Tensor:
    """Apply a (out, in) matrix to the first axis."""
    return (weight @ vectors.flatten(1)).view(-1, *vectors.shape[1:])


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
        """Convolve (t, C, T, I) matching vectors along (C, T, T) edges to (K * k, C, T, I)."""
        if self.scale is None:
            edges = edges / edges.sum(-1, keepdim=True).clamp_min(1e-30)
        if self.propagation == "paper":
            vectors = edges @ vectors
        else:
            vectors = vectors * edges.sum(-1).unsqueeze(-1)
        weight: Tensor = self.weight
        if self.scale is not None:
            weight = weight * self.scale.repeat_interleave(self.kernel_dim).unsqueeze(1)
        return _across(weight, vectors) + self.bias.view(-1, 1, 1, 1)


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
        """Convolve (t, C, I, R) matching vectors along (I, K, R, R) edges to (K * k, C, I, R)."""
        hidden = _across(self.weight, vectors).unflatten(0, (self.kernels, -1))  # (K, k, C, I, R)
        if self.propagation == "paper":
            rows = hidden.permute(3, 0, 1, 2, 4)  # (I, K, k, C, R)
            mixed = rows.flatten(2, 3) @ edges.transpose(2, 3)
            hidden = mixed.view(rows.shape).permute(1, 2, 3, 0, 4)
        else:
            hidden = hidden * edges.sum(-1).transpose(0, 1)[:, None, None]
        hidden = hidden.flatten(0, 1)
        shifted: Tensor = hidden if self.bias is None else hidden + self.bias.view(-1, 1, 1, 1)
        return shifted


class MatchingHead(nn.Module):
    """Two weight-normalised layers and the mean over nodes, GSMN Eq. (7)-(8)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = weight_norm(nn.Linear(width, hidden))
        self.outer = weight_norm(nn.Linear(hidden, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Turn (t, ...) matching vectors of nodes into (...) node scores."""
        hidden = _across(self.inner.weight, vectors)
        hidden = (hidden + self.inner.bias.view(-1, *[1] * (vectors.dim() - 1))).tanh()
        scores: Tensor = _across(self.outer.weight, hidden).squeeze(0) + self.outer.bias
        return scores
