"""Ranking losses over a square matrix of pair scores."""

from __future__ import annotations

import torch
from torch import Tensor


def negative_mask(image_rows: Tensor, *, mask_same_image: bool = True) -> Tensor:
    """Return which pairs of a batch are negatives: (B, B) bool, rows = images, columns = captions.

    Args:
        image_rows: (B,) int64, the image of each pair.
        mask_same_image: captions of the same image are not negatives; False excludes only the
            pair itself, as the released code of VSE++ and its descendants does.
    """
    if mask_same_image:
        return image_rows.unsqueeze(1) != image_rows.unsqueeze(0)
    n = len(image_rows)
    return ~torch.eye(n, dtype=torch.bool, device=image_rows.device)


def triplet_loss(
    scores: Tensor,
    negatives: Tensor | None = None,
    *,
    margin: float = 0.2,
    hard_negatives: bool = True,
    mean: bool = False,
) -> Tensor:
    """Hinge triplet loss in both directions, summed over the batch. SGM Eq. (8)-(9).

    Args:
        scores: (B, B), rows = images, columns = captions, matching pairs on the diagonal.
        negatives: (B, B) bool, pairs that count as negatives; None: all but the diagonal.
        margin: m.
        hard_negatives: count only the hardest negative of each row and column (Eq. 9), instead
            of the sum over all negatives (Eq. 8).
        mean: divide by the number of summands of each direction, as the released LGSGM: B, or B^2
            with all negatives.
    Returns: () the sum; 0 for a batch without negatives.
    """
    if negatives is None:
        negatives = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    positives = scores.diagonal()
    captions = (margin + scores - positives.unsqueeze(1)).clamp(min=0)  # negatives of image i
    images = (margin + scores - positives.unsqueeze(0)).clamp(min=0)  # negatives of caption j
    captions = captions.masked_fill(~negatives, 0.0)
    images = images.masked_fill(~negatives, 0.0)
    if hard_negatives:
        captions, images = captions.amax(1), images.amax(0)
    return captions.mean() + images.mean() if mean else captions.sum() + images.sum()
