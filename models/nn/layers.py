"""Norms, masked reductions, initialised layers and the Bi-GRU over padded words.

The ``mask`` of ``masked_softmax``, ``masked_mean`` and ``masked_max`` is a bool tensor that
broadcasts to the values, True where real.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.nn.recurrent import first_states, gru, pack

Activation = Literal["tanh", "relu", "leaky_relu", "none"]


def activate(x: Tensor, name: Activation) -> Tensor:
    """Apply the named activation; LeakyReLU has a slope of 0.1."""
    if name == "tanh":
        return x.tanh()
    if name == "relu":
        return x.relu()
    return nn.functional.leaky_relu(x, 0.1) if name == "leaky_relu" else x


def l2norm(x: Tensor, dim: int = -1, *, scale: float = 1.0) -> Tensor:
    """Return scale * x / (||x||_2 + 1e-8) along ``dim``.

    A zero vector stays zero, and its gradient is finite. The squares are summed explicitly: along
    an axis other than the last, this is several times faster than ``torch.linalg.vector_norm``.
    """
    norm = x.square().sum(dim, keepdim=True).clamp(min=1e-24).sqrt()
    return x * (scale / (norm + 1e-8))


def clipped_l2norm(similarities: Tensor, dim: int, scale: float) -> Tensor:
    """Return scale * l2norm(LeakyReLU(similarities)), the attention logits of SCAN.

    Args:
        similarities: any shape, 0 where padded.   dim: axis of the queries.   scale: lambda.
    """
    return l2norm(activate(similarities, "leaky_relu"), dim, scale=scale)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return a.b / max(||a|| ||b||, 1e-8) along the last axis."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return (a * b).sum(-1) / norms.clamp(min=1e-8)


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Set the padded rows of x (..., K, D) to zero; ``mask`` (..., K) is True where real."""
    return x.masked_fill(~mask.unsqueeze(-1), 0.0)


def masked_l2norm(x: Tensor, mask: Tensor) -> Tensor:
    """Scale the rows of x (..., K, D) to unit length; rows that ``mask`` (..., K) pads are zero."""
    return zero_padding(l2norm(x), mask)


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax along ``dim`` over real entries; all zeros where there is none."""
    masked = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(masked, dim=dim).masked_fill(~mask, 0.0)


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the mean along ``dim`` over real entries; 0 where there is none."""
    total = x.masked_fill(~mask, 0.0).sum(dim)
    return total / mask.to(x.dtype).sum(dim).clamp(min=1.0)


def masked_max(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the maximum along ``dim`` over real entries; 0 where there is none."""
    best = x.masked_fill(~mask, torch.finfo(x.dtype).min).amax(dim)
    return best.masked_fill(~mask.any(dim), 0.0)


def xavier_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a Linear with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def uniform_embedding(size: int, dim: int) -> nn.Embedding:
    """Return an Embedding with weights from U(-0.1, 0.1)."""
    table = nn.Embedding(size, dim)
    nn.init.uniform_(table.weight, -0.1, 0.1)
    return table


class BiGru(nn.Module):
    """A one-layer bidirectional GRU that averages its two directions.

    Args:
        inputs: width of a word vector.   hidden: width of a state.
        bidirectional: False reads forward only.
    """

    def __init__(self, inputs: int, hidden: int, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.hidden = hidden
        self.rnn = nn.GRU(inputs, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Run over padded sequences.

        Args:
            x: (N, T, inputs), real positions first.
            lengths: (N,) int64, real positions of each; 0 gives a row of zeros.
        Returns: (N, T, hidden): mean of both directions, zeros where padded.
        """
        return self.run(x, lengths)[0]

    def run(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of ``forward`` and (N, hidden), the mean of both final states.

        The final state of the backward direction is the one at the first position.
        """
        if not _plain(x):
            return self._library(x, lengths)
        states = x.new_zeros(x.shape[0] * x.shape[1], self.hidden)
        final = x.new_zeros(x.shape[0], self.hidden)
        packed = pack(lengths, x.shape[1])
        if packed.counts:
            rows = x.flatten(0, 1)[packed.rows]
            mean = gru(rows, packed.counts, *self._weights())
            last = mean[packed.last]
            if self.rnn.bidirectional:
                back = gru(rows[packed.mirror], packed.counts, *self._weights("_reverse"))
                mean, last = (mean + back[packed.mirror]) / 2, (last + back[packed.last]) / 2
            states = states.index_copy(0, packed.rows, mean)
            final = final.index_copy(0, packed.sequences, last)
        return states.view(*x.shape[:2], self.hidden), final

    def at_end(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the state of ``forward`` at the last real position, (N, hidden).

        There the backward direction has read one word only, so nothing else is computed of it. A
        sequence without a real position gives zeros.
        """
        if not _plain(x):
            states = last_state(self._library(x, lengths)[0], lengths)
            return states.masked_fill((lengths == 0).unsqueeze(1), 0.0)
        final = x.new_zeros(x.shape[0], self.hidden)
        packed = pack(lengths, x.shape[1])
        if not packed.counts:
            return final
        rows = x.flatten(0, 1)[packed.rows]
        last = gru(rows, packed.counts, *self._weights())[packed.last]
        if self.rnn.bidirectional:
            last = (last + first_states(rows[packed.last], *self._weights("_reverse"))) / 2
        return final.index_copy(0, packed.sequences, last)

    def _weights(self, direction: str = "") -> tuple[Tensor, ...]:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return tuple(getattr(self.rnn, name + direction) for name in names)

    def _library(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as ``run``, computed by PyTorch's GRU."""
        states = x.new_zeros(x.shape[0], x.shape[1], self.hidden)
        final = x.new_zeros(x.shape[0], self.hidden)
        (real,) = torch.nonzero(lengths > 0, as_tuple=True)
        if real.numel() == 0:
            return states, final
        rows = x[real].to(next(self.rnn.parameters()).dtype)
        packed = pack_padded_sequence(
            rows, lengths[real].cpu(), batch_first=True, enforce_sorted=False
        )
        # autocast runs cuDNN's GRU in float16 even where it was asked for bfloat16
        with torch.autocast(x.device.type, enabled=False):
            out, last = self.rnn(packed)  # last: (directions, n, hidden)
        both, _ = pad_packed_sequence(
            out, batch_first=True, total_length=x.shape[1]
        )  # (n, T, 2 hidden)
        mean = both.unflatten(-1, (-1, self.hidden)).mean(-2)
        last = last.mean(0).to(x.dtype)
        return states.index_copy(0, real, mean.to(x.dtype)), final.index_copy(0, real, last)


def _plain(x: Tensor) -> bool:
    """Return whether x is on a CPU, where cuDNN is not at hand, in its own precision."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def last_state(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the state at the last real position, (N, H).

    Args:
        states: (N, T, H).   lengths: (N,) int64; 0 returns the state at position 0.
    """
    last = (lengths - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last]
