"""Negatives chosen by distance, as HREM trains with (Wu et al., Sampling Matters, ICCV 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.nn.losses import triplet_loss

__all__ = ["distance_weights", "pair_loss", "sampled_triplet_loss"]

CUTOFF = 0.5  # distances below it count as this one
DIMENSION = 512  # of the sphere; the released code keeps 512 for 1024 values


def distance_weights(scores: Tensor, negatives: Tensor, far: float) -> Tensor:
    """Weigh negatives against the density of distances on a sphere.

    Args:
        scores: (N, M) cosines.
        negatives: (N, M) bool.
        far: negatives from this distance on get no weight.

    Returns:
        (N, M); a row sums to 1, or to 0 when no negative is near enough.
    """
    distance = (2 - 2 * scores).clamp_min(0).sqrt().clamp_min(CUTOFF)
    inner = (1 - distance.square() / 4).clamp_min(1e-8)
    log_weight = (2.0 - DIMENSION) * distance.log() - (DIMENSION - 3) / 2 * inner.log()
    weight = (log_weight - log_weight.amax(1, keepdim=True)).exp()
    weight = weight * negatives * (distance < far)
    return weight / (weight.sum(1, keepdim=True) + 1e-20)


def sampled_triplet_loss(
    scores: Tensor,
    positives: Tensor,
    *,
    margin: float,
    far: float,
    sampled: bool = True,
) -> Tensor:
    """Sum the hinge over all positive pairs, each with one negative of its row, HREM Eq. (13).

    Args:
        scores: (N, M) cosines; call again with the transpose for the other direction.
        positives: (N, M) bool; all other pairs are negatives.
        margin: alpha.
        far: see ``distance_weights``.
        sampled: draw the negative by weight; False: take the most likely one.
    """
    weights = distance_weights(scores.detach(), ~positives, far)
    usable = weights.sum(1) > 0
    if sampled:
        rows = torch.where(usable.unsqueeze(1), weights, 1.0)
        rows = rows[positives.nonzero()[:, 0]]  # every positive pair draws its own
        chosen = torch.multinomial(rows, 1).squeeze(1)
    else:
        chosen = weights.argmax(1)[positives.nonzero()[:, 0]]
    anchor, matching = positives.nonzero(as_tuple=True)
    hinge = (margin - scores[anchor, matching] + scores[anchor, chosen]).clamp_min(0)
    return (hinge * usable[anchor]).sum()


def pair_loss(
    images: Tensor,
    captions: Tensor,
    positives: Tensor,
    *,
    negatives: str,
    margin: float,
    far: float,
) -> Tensor:
    """Compare two sets of unit embeddings in both directions, HREM Eq. (13).

    Args:
        images: (N, d).   captions: (N, d).   positives: (N, N) bool.
        negatives: ``"distance"`` draws by distance, ``"likeliest"`` takes the heaviest instead of
            drawing, ``"hardest"`` the most similar one, ``"all"`` sums over all.
        margin: alpha.   far: see ``distance_weights``.
    """
    scores = images @ captions.T
    if negatives in ("hardest", "all"):
        hard = negatives == "hardest"
        return triplet_loss(scores, ~positives, margin=margin, hard_negatives=hard)
    drawn = negatives == "distance"
    return sampled_triplet_loss(
        scores, positives, margin=margin, far=far, sampled=drawn
    ) + sampled_triplet_loss(scores.T, positives.T, margin=margin, far=far, sampled=drawn)
