"""A linear layer over concatenated parts that are never concatenated.

The rows of a layer such as ``W [object; label]`` repeat a few labels. Each part is projected once
for every distinct row, and its gradient is summed before the product with the weights. Parts that
need no gradient, such as stored features, cost no product for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Part = tuple[Tensor, Tensor | None]
"""Distinct rows (U, d) and which of them each of M outputs reads, (M,) int64; None: U = M, all."""


def distinct(table: nn.Embedding, ids: Tensor) -> Part:
    """Return the vectors of (M,) ids as a part."""
    rows, at = torch.unique(ids, return_inverse=True)
    return table(rows), at


def picked(vectors: Tensor, rows: Tensor) -> Part:
    """Return (M,) rows of vectors (N, d) as a part."""
    rows, at = torch.unique(rows, return_inverse=True)
    return vectors.index_select(0, rows), at


class _Parts(torch.autograd.Function):
    """See ``linear_of_parts``; ``parts`` are rows and indices in turn."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, *parts: Tensor | None) -> Tensor:
        """Add the projections of all parts."""
        rows, ats = parts[::2], parts[1::2]
        out = None
        for part, at, columns in zip(rows, ats, _columns(weight, rows), strict=True):
            assert part is not None
            if at is not None:
                projected = (part @ columns.t()).index_select(0, at)
                out = projected if out is None else out.add_(projected)
            elif out is None:
                out = part @ columns.t()
            else:
                out.addmm_(part, columns.t())
        assert out is not None
        if bias is not None:
            out += bias
        ctx.has_bias = bias is not None
        ctx.save_for_backward(weight, *parts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Sum the gradient over equal rows, then multiply; each weight is written once."""
        weight, *parts = ctx.saved_tensors
        rows, ats = parts[::2], parts[1::2]
        grad_weight = torch.empty_like(weight)
        grads: list[Tensor | None] = []
        slots = _columns(grad_weight, rows)
        for place, (part, at, columns, slot) in enumerate(
            zip(rows, ats, _columns(weight, rows), slots, strict=True)
        ):
            own = grad
            if at is not None:
                own = grad.new_zeros(len(part), grad.shape[1]).index_add_(0, at, grad)
            torch.mm(own.t(), part, out=slot)
            grads += [own @ columns if ctx.needs_input_grad[2 + 2 * place] else None, None]
        return grad_weight, grad.sum(0) if ctx.has_bias else None, *grads


def _columns(weight: Tensor, rows: Any) -> tuple[Tensor, ...]:
    """Return the columns of a weight that belong to each part."""
    split: tuple[Tensor, ...] = weight.split([part.shape[1] for part in rows], 1)
    return split


def linear_of_parts(layer: nn.Linear, parts: list[Part]) -> Tensor:
    """Return ``layer`` of the concatenated parts, (M, outputs).

    Args:
        layer: its inputs are the widths of the parts, in their order.
        parts: at least one.
    """
    device = parts[0][0].device.type
    if torch.is_autocast_enabled(device):  # its precision is chosen for library calls only
        whole = [rows if at is None else rows.index_select(0, at) for rows, at in parts]
        joined: Tensor = layer(torch.cat(whole, -1))
        return joined
    flat = [value for part in parts for value in part]
    out: Tensor = _Parts.apply(layer.weight, layer.bias, *flat)  # type: ignore[no-untyped-call]
    return out


class RealRows:
    """The real rows of padded items, as flat rows and back.

    Args:
        mask: (B, K) bool, True where real.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        flat = mask.flatten()
        self.at = flat.nonzero().squeeze(1)  # (M,) among the B * K rows
        self.full = len(self.at) == flat.numel()
        self.place = flat.cumsum(0) - 1  # (B * K,) row of each real one among the M

    def flatten(self, padded: Tensor) -> Tensor:
        """Return (M, ...) of (B, K, ...)."""
        flat = padded.flatten(0, 1)
        return flat if self.full else flat.index_select(0, self.at)

    def pad(self, rows: Tensor) -> Tensor:
        """Return (B, K, d) of (M, d), zeros where padded."""
        if not self.full:
            empty = rows.new_zeros(self.mask.numel(), rows.shape[1])
            rows = empty.index_copy(0, self.at, rows)
        return rows.view(*self.mask.shape, -1)
