"""Blocks of HREM: attention with a mask and a bias, relation layers, region projection, pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, scaled_dot_product_attention

from models.nn.layers import linear as xavier

__all__ = ["Attention", "CrossLayer", "RegionProjection", "RelationLayer", "pool"]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention, HREM Eq. (1)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from queries to keys, with a bias for HREM Eq. (12).

        Args:
            queries: (B, N, d).
            keys: (B, M, d), also the values.
            bias: broadcasts to (B, 1, N, M); added to the scaled products, lambda * S where a
                connection exists and the lowest number where none does.

        Returns:
            (B, N, d).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((queries, keys, keys), weights, biases, strict=True)
        )
        rate = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=rate)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class RelationLayer(nn.Module):
    """One transformer layer, normalised after each addition: HREM's relation module."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Relate (B, N, d) nodes to each other; ``bias`` as in ``Attention``."""
        x = self.norm1(x + self._drop(self.self_attn(x, x, bias)))
        return self._forward_feed(x)

    def _forward_feed(self, x: Tensor) -> Tensor:
        hidden = self._drop(self.linear1(x).relu())
        out: Tensor = self.norm2(x + self._drop(self.linear2(hidden)))
        return out


class CrossLayer(RelationLayer):
    """One branch of the Standalone mechanism: other modality, own modality, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, heads, hidden, dropout)
        self.cross_attn = Attention(width, heads, dropout)
        self.norm0 = nn.LayerNorm(width)

    def relate(
        self, x: Tensor, other: Tensor, inter: Tensor | None, intra: Tensor | None, both: str
    ) -> Tensor:
        """Relate (B, N, d) embeddings to (B, M, d) others, then to each other.

        Args:
            x: own modality.
            other: the other one.
            inter: bias of the first attention.
            intra: bias of the second one.
            both: ``"both"``, ``"inter"`` or ``"intra"``, the attentions that take part.
        """
        if both != "intra":
            x = self.norm0(x + self._drop(self.cross_attn(x, other, inter)))
        if both != "inter":
            x = self.norm1(x + self._drop(self.self_attn(x, x, intra)))
        return self._forward_feed(x)


class RegionProjection(nn.Module):
    """A linear layer on region features, plus a small MLP beside it (released code, as GPO's)."""

    def __init__(self, inputs: int, width: int, *, mlp: bool) -> None:
        super().__init__()
        self.fc = xavier(inputs, width)
        self.mlp = (
            nn.ModuleList(
                [
                    nn.Linear(inputs, width // 2),
                    nn.BatchNorm1d(width // 2),
                    nn.Linear(width // 2, width),
                ]
            )
            if mlp
            else None
        )

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Project (I, R, D) regions to (I, R, d); batch statistics are those of real regions."""
        projected: Tensor = self.fc(regions)
        if self.mlp is None:
            return projected
        first, norm, second = self.mlp
        hidden = first(regions)
        if self.training:
            hidden = hidden.masked_scatter(mask.unsqueeze(-1), norm(hidden[mask]))
        else:
            hidden = norm(hidden.flatten(0, 1)).view(hidden.shape)
        deep: Tensor = second(hidden.relu())
        return projected + deep


def pool(fragments: Tensor, related: Tensor | None, mask: Tensor, beta: float, maxk: int) -> Tensor:
    """Pool fragments to one embedding, HREM Eq. (2)-(3).

    Args:
        fragments: (B, N, d) before relation modelling.
        related: (B, N, d) after it; None: there was none (ablation), the average is of fragments.
        mask: (B, N) bool.
        beta: share of the maximum.
        maxk: the maximum is the mean of the k largest values, or of all where there are fewer.

    Returns:
        (B, d).
    """
    real = mask.unsqueeze(-1)
    count = mask.sum(1, keepdim=True).clamp_min(1)  # (B, 1)
    average = (fragments if related is None else related).masked_fill(~real, 0.0).sum(1) / count
    lowest = torch.finfo(fragments.dtype).min
    k = min(maxk, fragments.shape[1])
    largest = fragments.masked_fill(~real, lowest).topk(k, dim=1).values  # (B, k, d)
    taken = torch.arange(k, device=mask.device) < mask.sum(1, keepdim=True)
    largest = largest.masked_fill(~taken.unsqueeze(-1), 0.0).sum(1) / count.clamp_max(k)
    return beta * largest + (1 - beta) * average
