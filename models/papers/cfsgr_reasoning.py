"""Similarity reasoning of CFSGR: from aligned nodes to similarity vectors to one number.

``compare`` aligns every text node with a mix of image nodes and turns the difference into a
similarity vector; ``GraphReasoning`` and ``AttentionFiltration`` read a score off these vectors.
The batched form subtracts the attended mix inside the matrix product that makes it, takes its
length from Gram matrices, and lets only the global node pass the last reasoning step, since
nothing else is read.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.baselines.scan import normalise
from models.nn.layers import l2norm, linear, masked_max, masked_mean, masked_softmax

__all__ = [
    "AttentionFiltration",
    "Comparison",
    "ConvAttention",
    "GraphReasoning",
    "Nodes",
    "SelfAttention",
    "scan_attention",
]

Head = Literal["sgraf", "literal"]


class Nodes(NamedTuple):
    """Nodes of N graphs and one global vector each."""

    local: Tensor  # (N, K, D), unit length, zeros where padded
    mask: Tensor  # (N, K) bool
    whole: Tensor  # (N, D), unit length


class SelfAttention(nn.Module):
    """Global vector of a set: gate each node by its fit to the mean, average. CFSGR Eq. (11)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.empty(width, width))
        nn.init.kaiming_uniform_(self.theta)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Return (N, D) for nodes (N, K, D) and mask (N, K); zeros for an empty set."""
        real = mask.unsqueeze(-1)
        query = (masked_mean(nodes, real, 1) @ self.theta.T).relu()  # (N, D)
        gate = torch.sigmoid((nodes * query.unsqueeze(1)).sum(-1, keepdim=True))  # (N, K, 1)
        return masked_mean(gate * nodes, real, 1)


class ConvAttention(nn.Module):
    """Global vector of a sequence: convolve down and up, maximum over nodes. CFSGR Eq. (12).

    Args:
        width: D.   ratio: D / ratio channels in between.   kernel: odd width of both.
    """

    def __init__(self, width: int, ratio: int, kernel: int) -> None:
        super().__init__()
        inner = max(1, width // ratio)
        self.down = nn.Conv1d(width, inner, kernel, padding=kernel // 2)
        self.up = nn.Conv1d(inner, width, kernel, padding=kernel // 2)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Return (N, D) for nodes (N, K, D) and mask (N, K); zeros for an empty set."""
        real = mask.unsqueeze(1)  # (N, 1, K)
        if nodes.shape[1] == 0:
            return nodes.new_zeros(len(nodes), nodes.shape[2])
        down = self.down(nodes.transpose(1, 2).masked_fill(~real, 0.0))
        return masked_max(self.up(down.masked_fill(~real, 0.0)), real, 2)


def scan_attention(queries: Tensor, nodes: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Mix of an image's nodes that each query attends to, unit length. CFSGR Eq. (6).

    Args:
        queries: one caption's, (I, Q, D), the same for every image.
        nodes: (I, K, D).   mask: (I, K) bool.   scale: lambda of the softmax.

    Returns:
        (I, Q, D).
    """
    scores = torch.bmm(queries, nodes.transpose(1, 2))  # (I, Q, K)
    every = mask.new_ones(1, 1, 1)
    weights = normalise(scores, "clipped_l2norm", 1, every, scale)
    weights = masked_softmax(weights, mask.unsqueeze(1), -1)
    return l2norm(torch.bmm(weights, nodes))


class Comparison(nn.Module):
    """Similarity vectors of all text nodes and of the global pair. CFSGR Eq. (7).

    Args:
        width: D.   sim_dim: H, width of a similarity vector.
        scale: lambda of the attention that aligns the nodes.
        square: compare by squared differences; False: by the differences, as Eq. 15 prints.
    """

    def __init__(self, width: int, sim_dim: int, scale: float, *, square: bool = True) -> None:
        super().__init__()
        self.scale = scale
        self.square = square
        self.local = linear(width, sim_dim)
        self.whole = linear(width, sim_dim)

    def forward(
        self, images: Nodes, texts: Nodes, gram: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare n images with C captions: whole graphs, objects or predicates. CFSGR Eq. (15).

        Args:
            images, texts: the nodes.
            gram: (n, K, K) inner products of each image's nodes, when they are at hand.

        Returns:
            (n, C, T + 1, H), the global vector first, and its mask (C, T + 1).
        """
        (n, K), (C, T) = images.mask.shape, texts.mask.shape
        flat = texts.local.reshape(C * T, -1)
        s = (flat @ images.local.reshape(n * K, -1).T).view(C, T, n, K)
        a = normalise(s, "clipped_l2norm", 1, texts.mask.view(C, T, 1, 1), self.scale)
        a = masked_softmax(a, images.mask.view(1, 1, n, K), -1)
        a = a.view(C * T, n, K).transpose(0, 1)  # (n, C T, K)
        if gram is None:
            gram = images.local @ images.local.transpose(1, 2)
        length = (torch.bmm(a, gram) * a).sum(-1, keepdim=True).clamp(min=1e-16).sqrt()
        # t - sum_k a_k v_k / length, subtracted inside the product: (n, C T, D)
        apart = torch.baddbmm(
            flat.unsqueeze(0).expand(n, -1, -1), a / (length + 1e-8), images.local, alpha=-1
        )
        local = l2norm(self.local(self._power(apart))).view(n, C, T, -1)
        r = torch.cat([self._global(images.whole, texts.whole).unsqueeze(2), local], 2)
        return r, _with_global(texts.mask)

    def plain(self, images: Nodes, text: Nodes) -> Tensor:
        """Return (I, Q + 1, H) for one caption without padding, contexts built."""
        queries = text.local.repeat(len(images.local), 1, 1)
        apart = queries - scan_attention(queries, images.local, images.mask, self.scale)
        local = l2norm(self.local(self._power(apart)))
        return torch.cat([self._global(images.whole, text.whole), local], 1)

    def _global(self, images: Tensor, texts: Tensor) -> Tensor:
        apart = texts.unsqueeze(0) - images.unsqueeze(1)  # (n, C, D)
        return l2norm(self.whole(self._power(apart)))

    def _power(self, apart: Tensor) -> Tensor:
        if not self.square:
            return apart
        return apart.square() if torch.is_grad_enabled() else apart.square_()


def _with_global(mask: Tensor) -> Tensor:
    return torch.cat([mask.new_ones(len(mask), 1), mask], 1)


class GraphReasoning(nn.Module):
    """Let similarity vectors exchange what they know; read the global one. CFSGR Eq. (8).

    Args:
        sim_dim: H.
        steps: rounds of exchange: 1 in the paper, 3 in SGRAF.
        head: ``sgraf``: r_s = ReLU(W w r), S = sigmoid(w r_s); ``literal``: S =
            sigmoid(ReLU(w r_s)) as printed, which never falls below 1/2.
    """

    def __init__(self, sim_dim: int, steps: int, head: Head) -> None:
        super().__init__()
        self.head: Head = head
        self.queries = nn.ModuleList(linear(sim_dim, sim_dim) for _ in range(steps))
        self.keys = nn.ModuleList(linear(sim_dim, sim_dim) for _ in range(steps))
        self.updates = nn.ModuleList(
            linear(sim_dim, sim_dim) for _ in range(steps if head == "sgraf" else 0)
        )
        self.read = linear(sim_dim, 1)

    def step(self, r: Tensor, mask: Tensor, number: int, *, only_global: bool = False) -> Tensor:
        """One round of exchange.

        Args:
            r: (..., N, H).   mask: (..., N) bool.   number: which round.
            only_global: return the first vector alone, (..., 1, H).
        """
        key = self.keys[number]
        assert isinstance(key, nn.Linear)
        asked = self.queries[number](r[..., :1, :] if only_global else r)
        if only_global:
            # q.(W r + b) = (q W).r + q.b, and the softmax ignores q.b: no product per node.
            scores = (asked @ key.weight) @ r.transpose(-1, -2)
        else:
            scores = asked @ key(r).transpose(-1, -2)
        mixed = masked_softmax(scores, mask.unsqueeze(-2), -1) @ r
        if self.head == "literal":
            return mixed
        out: Tensor = self.updates[number](mixed).relu()
        return out

    def forward(self, r: Tensor, mask: Tensor) -> Tensor:
        """Return the similarities (...) of similarity vectors (..., N, H), the global one first."""
        last = len(self.queries) - 1
        for number in range(last):
            r = self.step(r, mask, number)
        return self._read(self.step(r, mask, last, only_global=True)[..., 0, :])

    def plain(self, r: Tensor) -> Tensor:
        """Return (I,) for (I, N, H) without padding, every node through every step."""
        every = r.new_ones(r.shape[:-1], dtype=torch.bool)
        for number in range(len(self.queries)):
            r = self.step(r, every, number)
        return self._read(r[:, 0])

    def _read(self, r: Tensor) -> Tensor:
        value = self.read(r).squeeze(-1)
        return torch.sigmoid(value.relu() if self.head == "literal" else value)


class AttentionFiltration(nn.Module):
    """Weigh similarity vectors by their own significance and sum them. CFSGR Eq. (16).

    The printed result is a vector; a linear layer and a sigmoid make it a similarity, as in
    SGRAF. While training, the batch statistics are those of all real nodes of all pairs.
    """

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.weigh = linear(sim_dim, 1)
        self.norm = nn.BatchNorm1d(1)
        self.read = linear(sim_dim, 1)

    def filtrate(self, r: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted sum, unit length: (..., H) for (..., N, H) and mask (..., N)."""
        logits = self.weigh(r).squeeze(-1)
        real = mask.expand_as(logits)
        weights = torch.sigmoid(self._normalise(logits, real)).masked_fill(~real, 0.0)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-8)
        return l2norm((weights.unsqueeze(-2) @ r).squeeze(-2))

    def _normalise(self, logits: Tensor, real: Tensor) -> Tensor:
        values = logits[real].unsqueeze(1)
        bn = self.norm
        if self.training and len(values) > 1:
            values = bn(values)
        else:
            values = nn.functional.batch_norm(
                values, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
            )
        return torch.zeros_like(logits).masked_scatter(real, values)

    def forward(self, r: Tensor, mask: Tensor) -> Tensor:
        """Return the similarities (...)."""
        value: Tensor = self.read(self.filtrate(r, mask)).squeeze(-1)
        return torch.sigmoid(value)
