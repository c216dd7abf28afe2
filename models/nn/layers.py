"""Blocks that several models share: norms, masked pooling, the Bi-GRU over padded words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = [
    "BiGru",
    "clipped_l2norm",
    "cosine",
    "embedding",
    "l1norm",
    "l2norm",
    "last_state",
    "leaky_softmax",
    "linear",
    "masked_max",
    "masked_mean",
    "masked_softmax",
]


def l2norm(x: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Return x / (||x||_2 + eps) along ``dim``; a zero vector stays zero, its gradient finite.

    Squares are summed by hand: along an axis that is not the last, this is several times faster
    than ``torch.linalg.vector_norm``.
    """
    norm = x.square().sum(dim, keepdim=True).clamp(min=1e-24).sqrt()
    return x * (1.0 / (norm + eps))


def l1norm(x: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Return x / (||x||_1 + eps) along ``dim``."""
    return x / (x.abs().sum(dim=dim, keepdim=True) + eps)


def cosine(a: Tensor, b: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Return a.b / max(||a|| ||b||, eps) along ``dim``."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / norms.clamp(min=eps)


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax along ``dim`` over real entries; a row without any is all zeros.

    Args:
        scores: any shape.   mask: bool, broadcastable to it, True = real.   dim: axis.
    """
    masked = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(masked, dim=dim).masked_fill(~mask, 0.0)


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the mean along ``dim`` over real entries; 0 where there is none.

    Args:
        x: any shape.   mask: bool, broadcastable to ``x``, True = real.   dim: axis.
    """
    weight = mask.to(x.dtype)
    total = x.masked_fill(~mask, 0.0).sum(dim)
    return total / weight.sum(dim).clamp(min=1.0)


def masked_max(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the maximum along ``dim`` over real entries; 0 where there is none.

    Args:
        x: any shape.   mask: bool, broadcastable to ``x``, True = real.   dim: axis.
    """
    best = x.masked_fill(~mask, torch.finfo(x.dtype).min).amax(dim)
    return best.masked_fill(~mask.any(dim), 0.0)


def clipped_l2norm(scores: Tensor, mask: Tensor, dim: int, slope: float = 0.1) -> Tensor:
    """Return l2norm(LeakyReLU(scores)) along ``dim``, padded entries zero.

    The first half of stacked cross attention; ``dim`` is the axis of the queries.
    """
    clipped = torch.nn.functional.leaky_relu(scores, slope).masked_fill(~mask, 0.0)
    return l2norm(clipped, dim)


def leaky_softmax(scores: Tensor, query_mask: Tensor, key_mask: Tensor, scale: float) -> Tensor:
    """Return attention weights: clipped, normalised over the queries, softmax over the keys.

    Args:
        scores: (..., Q, K) similarities.
        query_mask: (..., Q) bool.   key_mask: (..., K) bool.   scale: lambda.

    Returns:
        (..., Q, K), each row of a real query sums to 1 over the real keys.
    """
    both = query_mask.unsqueeze(-1) & key_mask.unsqueeze(-2)
    return masked_softmax(clipped_l2norm(scores, both, dim=-2) * scale, both, dim=-1)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a Linear with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def embedding(size: int, dim: int, bound: float = 0.1) -> nn.Embedding:
    """Return an Embedding with weights from U(-bound, bound)."""
    table = nn.Embedding(size, dim)
    nn.init.uniform_(table.weight, -bound, bound)
    return table


class BiGru(nn.Module):
    """A one-layer bidirectional GRU whose two directions are averaged.

    Args:
        inputs: width of one word vector.
        hidden: width of a state.
        bidirectional: False reads forwards only.
    """

    def __init__(self, inputs: int, hidden: int, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.hidden = hidden
        self.rnn = nn.GRU(inputs, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Run over padded sequences.

        Args:
            x: (N, T, inputs).
            lengths: (N,) int64, real positions come first; 0 gives a row of zeros.

        Returns:
            (N, T, hidden): mean of both directions, zeros where padded.
        """
        states = x.new_zeros(x.shape[0], x.shape[1], self.hidden)
        (real,) = torch.nonzero(lengths > 0, as_tuple=True)
        if real.numel() == 0:
            return states
        packed = pack_padded_sequence(
            x[real], lengths[real].cpu(), batch_first=True, enforce_sorted=False
        )
        both, _ = pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=x.shape[1]
        )  # (n, T, 2 hidden)
        mean = both.unflatten(-1, (-1, self.hidden)).mean(-2)
        return states.index_copy(0, real, mean)


def last_state(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the state at the last real position.

    Args:
        states: (N, T, H).   lengths: (N,) int64; 0 picks position 0.

    Returns:
        (N, H).
    """
    last = (lengths - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last]
