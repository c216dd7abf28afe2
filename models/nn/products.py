"""Products of float32 matrices on a CPU, by oneDNN where PyTorch was built with it.

PyTorch multiplies with the BLAS that it was built with. On processors with AVX-512 that the BLAS
does not favour, oneDNN is a tenth to a third faster, most of all for few rows with weights that
were packed once. It is reached through the operators that PyTorch's own compiler emits; where they
are missing, or for other types and devices, the products are those of ``addmm`` and ``mm``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALLEST = 2**22  # multiplications; below it, the time of a call counts more than its product


def _found() -> tuple[Any, Any] | None:
    """Return the operators that multiply and that pack weights, if they work as used here.

    They are not public, so another release of PyTorch may have changed them.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    x = torch.arange(6.0).view(2, 3)
    try:
        multiply = torch.ops.mkldnn._linear_pointwise
        pack = torch.ops.mkldnn._reorder_linear_weight
        found = multiply(x, pack(x, 2), x[0, :2], "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return (multiply, pack) if torch.equal(found, x @ x.t() + x[0, :2]) else None


_OPERATORS = _found()


def _fast(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN should multiply rows of ``x`` with ``weight``."""
    return (
        _OPERATORS is not None
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and len(x) * weight.numel() >= SMALLEST
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.t() + bias``, outside of autograd.

    Args:
        x: (M, K).   weight: (N, K), or a transposed view.   bias: (N,).
    """
    if _fast(x, weight):
        assert _OPERATORS is not None
        out: Tensor = _OPERATORS[0](x, weight, bias, "none", [], "")
        return out
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


class Packed:
    """Weights that several products of few rows read.

    Args:
        weight: (N, K), or a transposed view.   rows: about how many rows a product has.
        products: how many products there will be; few are not worth the packing.
    """

    def __init__(self, weight: Tensor, rows: int, products: int) -> None:
        self.weight = weight
        self.packed = None
        if products > 4 and _fast(weight.new_empty(1).expand(rows, 1), weight):
            assert _OPERATORS is not None
            self.packed = _OPERATORS[1](weight, rows)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.t() + bias`` for (M, K) rows."""
        if self.packed is None:
            return x @ self.weight.t() if bias is None else torch.addmm(bias, x, self.weight.t())
        assert _OPERATORS is not None
        out: Tensor = _OPERATORS[0](x, self.packed, bias, "none", [], "")
        return out


class _Linear(torch.autograd.Function):
    """See ``apply_linear``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply with the weights for the rows, and with the rows for the weights."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if of_x else None,
            product(grad.t(), x.t()) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def apply_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return ``layer`` of (..., K) rows, with fast products in both directions."""
    rows = x.flatten(0, -2)
    if torch.is_autocast_enabled(x.device.type) or not _fast(rows, layer.weight):
        plain: Tensor = layer(x)
        return plain
    out: Tensor = _Linear.apply(rows, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)
