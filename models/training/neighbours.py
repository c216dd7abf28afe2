"""Batches of look-alike images for later epochs, as HREM samples them.

The clusters are those of the images' mean region features, which do not change while a model
learns: an epoch's batches then follow from seed and epoch alone, so that a resumed run and every
rank draw the same ones. HREM section 3.4 says visual embeddings and gives no numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.batches.loader import Loader

if TYPE_CHECKING:
    from torch import Tensor

    from features.store import Store
    from features.vocab.codebook import Codebook

__all__ = ["NeighbourLoader", "mean_regions", "neighbour_order"]

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
    import torch

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
    from models.papers.hrem_batches import neighbour_batches

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
