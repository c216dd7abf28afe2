"""A GRU over packed words with a gradient of its own, for CPUs.

PyTorch's GRU adds a gradient of its weights to the last one at every step, and keeps a node of the
graph for every operation. Here the weights get one matrix product over all steps.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.nn.products import Packed, product


class Packing(NamedTuple):
    """M real positions of N padded sequences, step by step, the longest sequence first."""

    rows: Tensor  # (M,) int64, row of each position among the N * T padded ones
    mirror: Tensor  # (M,) int64, packed row of the same position read from the end
    counts: list[int]  # sequences that are still running at each step
    sequences: Tensor  # (n,) int64, sequences with a real position, the longest first
    last: Tensor  # (n,) int64, packed row of the last position of each of these


def pack(lengths: Tensor, width: int) -> Packing:
    """Return the packing of (N,) lengths; sequences are padded to ``width``."""
    lengths, order = lengths.sort(descending=True, stable=True)
    running = torch.arange(width, device=lengths.device).unsqueeze(1) < lengths  # (T, N)
    step, place = running.nonzero(as_tuple=True)
    counts = running.sum(1)
    starts = counts.cumsum(0) - counts
    real = int(counts[0]) if width else 0
    return Packing(
        rows=order[place] * width + step,
        mirror=starts[lengths[place] - 1 - step] + place,
        counts=[count for count in counts.tolist() if count],
        sequences=order[:real],
        last=starts[lengths[:real] - 1] + torch.arange(real, device=lengths.device),
    )


class _Gru(torch.autograd.Function):
    """The states of one direction; see ``gru``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        counts: list[int],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        """Run all steps; gates are computed where their inputs are."""
        h = w_hh.shape[1]
        gates = product(x, w_ih, b_ih)  # (M, 3 h): reset, update, new
        inner = x.new_empty(len(x), h)  # what the reset gate multiplies
        states = torch.empty_like(inner)
        before = states[:0]
        recurrent = Packed(w_hh, counts[0], len(counts) - 1)
        start = 0
        for count in counts:
            rows = slice(start, start + count)
            gate, new, out = gates[rows, : 2 * h], gates[rows, 2 * h :], states[rows]
            if start == 0:
                gate += b_hh[: 2 * h]
                inner[rows] = b_hh[2 * h :]
            else:
                added = recurrent.product(before[:count], b_hh)
                gate += added[:, : 2 * h]
                inner[rows] = added[:, 2 * h :]
            gate.sigmoid_()
            reset, update = gate[:, :h], gate[:, h:]
            new.addcmul_(reset, inner[rows]).tanh_()
            if start == 0:
                torch.addcmul(new, update, new, value=-1, out=out)
            else:
                torch.lerp(new, before[:count], update, out=out)
            before = out
            start += count
        ctx.save_for_backward(x, w_ih, w_hh, gates, inner, states)
        ctx.counts = counts
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Walk back through the steps, then sum over them in one product for each weight."""
        x, w_ih, w_hh, gates, inner, states = ctx.saved_tensors
        counts: list[int] = ctx.counts
        h = w_hh.shape[1]
        starts = [0, *itertools.accumulate(counts)]
        before = torch.cat(  # the states that the steps started from
            [states.new_zeros(counts[0], h)]
            + [states[a : a + n] for a, n in zip(starts, counts[1:], strict=False)]
        )
        reset, update, new = gates[:, :h], gates[:, h : 2 * h], gates[:, 2 * h :]
        # Gradients of the sums that enter new, reset and update gate, and of ``inner``. The first
        # three belong to x, the last three to the states. At first: derivatives by the state.
        d = x.new_empty(len(x), 4 * h)
        d_new, d_reset, d_update, d_inner = d.split(h, 1)
        torch.mul(new, new, out=d_new).neg_().add_(1).mul_(1 - update)
        torch.mul(reset, 1 - reset, out=d_reset).mul_(inner)
        torch.neg(new, out=d_update)
        d_update += before
        d_update.mul_(update).mul_(1 - update)
        d_inner.copy_(reset)
        recurrent = Packed(w_hh.t(), counts[0], len(counts) - 1)
        carried = grad[:0]
        for step in range(len(counts) - 1, -1, -1):
            rows = slice(starts[step], starts[step + 1])
            later = len(carried)
            state = grad[rows]
            if later:
                carried += state[:later]
                state = torch.cat([carried, state[later:]]) if later < len(state) else carried
            d_new[rows] *= state
            d_update[rows] *= state
            d_reset[rows] *= d_new[rows]
            d_inner[rows] *= d_new[rows]
            if step:
                carried = recurrent.product(d[rows, h:]).addcmul_(state, update[rows])
        sums = d.sum(0)
        by_row = d.t().contiguous()  # once, since slices of it need no copy of their own
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(d[:, : 3 * h], w_ih.roll(h, 0).t())
        grad_ih = product(by_row[: 3 * h], x.t()).roll(-h, 0)
        grad_hh = product(by_row[h:], before.t())
        return grad_x, None, grad_ih, grad_hh, torch.cat([sums[h : 3 * h], sums[:h]]), sums[h:]


def gru(
    x: Tensor, counts: list[int], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> Tensor:
    """Return the states (M, h) of one direction of a GRU that starts from zeros.

    Args:
        x: (M, d) inputs, packed.   counts: as in ``Packing``; they sum to M > 0.
        w_ih, w_hh, b_ih, b_hh: (3 h, d), (3 h, h), (3 h,), (3 h,), as in ``nn.GRU``.
    """
    states: Tensor = _Gru.apply(x, counts, w_ih, w_hh, b_ih, b_hh)  # type: ignore[no-untyped-call]
    return states


def first_states(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """Return the states (N, h) after the first step from zeros, for (N, d) inputs.

    ``w_hh`` is multiplied by zeros. Its gradient of zeros lets the optimiser treat it as before.
    """
    b_hh = b_hh + 0.0 * w_hh[:, 0]
    reset, update, new = torch.addmm(b_ih, x, w_ih.t()).chunk(3, 1)
    b_reset, b_update, b_new = b_hh.chunk(3)
    new = (new + (reset + b_reset).sigmoid() * b_new).tanh()
    return new * (1 - (update + b_update).sigmoid())
