"""What HREM does to training batches: neighbours side by side, regions and words left out."""

from __future__ import annotations

import torch
from torch import Tensor

from features.errors import UsageError

__all__ = ["drop_regions", "drop_words", "k_means", "neighbour_batches"]


def k_means(points: Tensor, clusters: int, *, rounds: int = 20, seed: int = 0) -> Tensor:
    """Return the cluster of each of (N, d) points, by Lloyd's rounds from random points."""
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=generator)[:clusters]]
    labels = torch.zeros(len(points), dtype=torch.int64)
    for _ in range(rounds):
        found = (points @ centres.T - centres.square().sum(1) / 2).argmax(1)
        if bool((found == labels).all()):
            break
        labels = found
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        counts = torch.bincount(labels, minlength=len(centres)).unsqueeze(1)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return labels


def neighbour_batches(
    embeddings: Tensor,
    captions_of: list[list[int]],
    *,
    clusters: int,
    per_batch: int,
    per_cluster: int,
    batches: int,
    seed: int = 0,
) -> list[list[tuple[int, int]]]:
    """Draw batches of neighbours: P clusters, K images of each, one caption of every image.

    HREM section 3.4; the paper gives neither P, K nor the number of clusters.

    Args:
        embeddings: (N, d) visual embeddings of the training images.
        captions_of: captions of each image.
        clusters: clusters of the k-means.
        per_batch: P, clusters in a batch.
        per_cluster: K, images of each; batches hold P * K pairs.
        batches: how many batches to draw.
        seed: the same seed draws the same batches.

    Returns:
        ``batches`` lists of (image, caption). A cluster of fewer than K images gives all of them
        and the batch is filled up with other images.

    Raises:
        UsageError: more pairs wanted in a batch than there are images.
    """
    size = per_batch * per_cluster
    if size > len(embeddings):
        raise UsageError(
            f"neighbour batches of {per_batch} x {per_cluster} = {size} need as many images, "
            f"but there are {len(embeddings)}; lower per_batch or per_cluster."
        )
    labels = k_means(embeddings, min(clusters, len(embeddings)), seed=seed)
    members = [torch.nonzero(labels == c).flatten() for c in labels.unique().tolist()]
    generator = torch.Generator().manual_seed(seed)

    def shuffled(items: Tensor) -> list[int]:
        drawn: list[int] = items[torch.randperm(len(items), generator=generator)].tolist()
        return drawn

    found = []
    for _ in range(batches):
        order = shuffled(torch.arange(len(members)))
        chosen = [row for c in order[:per_batch] for row in shuffled(members[c])[:per_cluster]]
        if len(chosen) < size:
            taken = set(chosen)
            rest = [row for c in order for row in shuffled(members[c]) if row not in taken]
            chosen += rest[: size - len(chosen)]
        draws = torch.rand(size, generator=generator).tolist()
        found.append(
            [
                (row, captions_of[row][int(draw * len(captions_of[row]))])
                for row, draw in zip(chosen, draws, strict=True)
            ]
        )
    return found


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
