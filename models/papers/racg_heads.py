"""The multi-head similarity of RACG and its loss."""

from __future__ import annotations

from torch import Tensor, nn

from models.nn.layers import linear
from models.nn.losses import triplet_loss

__all__ = ["MultiHead", "racg_loss"]


class MultiHead(nn.Module):
    """Cosines head by head and two layers over them, RACG Eq. (15)-(19)."""

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = linear(heads, hidden), linear(hidden, 1)

    def forward(self, nodes: Tensor, rebuilt: Tensor) -> Tensor:
        """Compare (B, N, d) nodes with their reconstruction: (B, N) scores."""
        one = nodes.unflatten(-1, (self.heads, -1))
        other = rebuilt.unflatten(-1, (self.heads, -1))
        # squares instead of norms: a head that is all zero must not have an infinite gradient
        square = one.square().sum(-1) * other.square().sum(-1)
        cosines = (one * other).sum(-1) / square.clamp_min(1e-16).sqrt()
        scores: Tensor = self.second(self.first(cosines).tanh()).squeeze(-1)
        return scores


def racg_loss(
    scores: Tensor,
    negatives: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    hard_negatives: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return main and auxiliary loss of a batch, RACG Eq. (21)-(22).

    Args:
        scores: (B, B), images by captions, matching pairs on the diagonal.
        negatives: (B, B) bool.
        alpha: margin between a pair and its hard negatives.
        beta: score that matching pairs should reach.
        gamma: score that hard negatives should stay below.
        hard_negatives: only the hardest negative of each row and column, as printed, instead of
            the sum over all in both losses.

    Returns:
        Two sums over the batch.
    """
    main = triplet_loss(scores, negatives, margin=alpha, hard_negatives=hard_negatives)
    above = (scores - gamma).clamp_min(0).masked_fill(~negatives, 0.0)
    wrong = above.amax(1).sum() + above.amax(0).sum() if hard_negatives else 2 * above.sum()
    return main, wrong + (beta - scores.diagonal()).clamp_min(0).sum()
