"""Batches of look-alike images for later epochs, as HREM samples them.

The clusters are those of the images' mean region features, which do not change while a model
learns: an epoch's batches then follow from seed and epoch alone, so that a resumed run and every
rank draw the same ones. HREM section 3.4 says visual embeddings and gives no numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.batches.loader import Loader
from features.errors import UsageError

if TYPE_CHECKING:
    from features.store import Store
    from features.vocab.codebook import Codebook

__all__ = ["NeighbourLoader", "k_means", "mean_regions", "neighbour_batches", "neighbour_order"]

Index = npt.NDArray[np.int64]


class NeighbourLoader(Loader):
    """A loader whose order is given: the caption rows of all ranks' batches, batch after batch."""

    def __init__(self, *args: Any, rows: Index, **options: Any) -> None:
        self._given = rows
        super().__init__(*args, **options)

    def epoch_rows(self) -> Index:
        """Return this rank's share of every batch."""
        return self._given[self.rank :: self.world]


def mean_regions(store: Store, split: str, codebook: Codebook) -> Tensor:
    """Return the unit mean of each image's region features, (N, D), in row order."""
    parts = []
    for batch in store.image_batches(split, 256, codebook, unions=False):
        mask = batch.object_mask.unsqueeze(-1)
        parts.append((batch.objects.float() * mask).sum(1))  # the length is taken away anyway
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def neighbour_order(
    store: Store,
    split: str,
    points: Tensor,
    *,
    clusters: int,
    per_cluster: int,
    batch_size: int,
    batches: int,
    seed: int,
) -> Index:
    """Return (batches * batch_size,) caption rows: in each batch, groups of look-alike images.

    Args:
        store, split: what is trained on.   points: ``mean_regions`` of it.
        clusters: of the k-means.   per_cluster: K, images of one cluster in a batch.
        batch_size: pairs of all ranks; P is ``batch_size // per_cluster``.
        batches: per epoch.   seed: what the draw depends on.

    Raises: UsageError: a batch wants more images than there are.
    """
    captions = store.caption_rows(split)
    owner = store.caption_image_rows(split)
    asks = np.flatnonzero(np.bincount(owner, minlength=len(points)))  # images with captions
    ends = np.searchsorted(owner, asks), np.searchsorted(owner, asks, side="right")
    of_image = [captions[a:b].tolist() for a, b in zip(*ends, strict=True)]
    drawn = neighbour_batches(
        points[asks],
        of_image,
        clusters=clusters,
        per_batch=batch_size // per_cluster,
        per_cluster=per_cluster,
        batches=batches,
        seed=seed,
    )
    return np.asarray([caption for batch in drawn for _, caption in batch], np.int64)


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
