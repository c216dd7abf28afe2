"""What HREM does to training batches: regions and words left out."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drop_regions", "drop_words"]


def drop_regions(mask: Tensor, rate: float) -> Tensor:
    """Hide each real region with probability ``rate``; at least one of an image stays."""
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= rate)
    return torch.where(kept.any(1, keepdim=True), kept, mask)


def drop_words(ids: Tensor, mask: Tensor, rate: float, unknown: int, size: int) -> Tensor:
    """Disturb words of captions: half of the chosen masked, a tenth replaced, the rest deleted.

    Args:
        ids: (C, T) int64, 0 where padded.
        mask: (C, T) bool; the first and the last real position are never touched.
        rate: share of words that is chosen.
        unknown: id that masks a word.
        size: replacements are drawn from ids 4 to ``size`` - 1.

    Returns:
        (C, T) int64 with the words that are left moved together, 0 behind them.
    """
    last = mask.sum(1, keepdim=True) - 1
    position = torch.arange(ids.shape[1], device=ids.device)
    inner = mask & (position > 0) & (position < last)
    chosen = inner & (torch.rand(ids.shape, device=ids.device) < rate)
    lot = torch.rand(ids.shape, device=ids.device)
    other = torch.randint_like(ids, min(4, size - 1), size)
    ids = torch.where(chosen & (lot < 0.5), unknown, ids)
    ids = torch.where(chosen & (lot >= 0.5) & (lot < 0.6), other, ids)
    gone = ~mask | (chosen & (lot >= 0.6))
    order = gone.long().argsort(dim=1, stable=True)
    return ids.masked_fill(gone, 0).gather(1, order)
