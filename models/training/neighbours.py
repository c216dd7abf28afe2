"""Batches with groups of similar images, as in HREM section 3.4.

Images are clustered by their mean region features, or by the model's embeddings as in the paper
(``data.neighbours_by``). With fixed features the batches of an epoch depend on seed and epoch
alone. Embeddings change during training: the clusters of an epoch are those of the weights at its
start, and a checkpoint keeps them, so that a resumed run and all ranks draw the same batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.batches import Loader
from features.errors import ConfigError, UsageError
from models.registry import reads_unions

if TYPE_CHECKING:
    from features.store import Store
    from features.vocab import Codebook

Index = npt.NDArray[np.int64]


class NeighbourLoader(Loader):
    """A loader with a given order: the caption rows of all batches of all ranks."""

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
        parts.append((batch.objects.float() * mask).sum(1))  # normalised below, so a sum will do
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def embeddings(model: Any, store: Store, split: str, codebook: Codebook) -> Tensor:
    """Return the model's embedding of each image, (N, d) float32 on the CPU, in row order.

    Raises: ConfigError: the model has no single vector for an image.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    batches = store.image_batches(split, 256, codebook, unions=reads_unions(model))
    try:
        with torch.no_grad():
            parts = [model.encode_images(batch.to(device))[0].float().cpu() for batch in batches]
    finally:
        model.train(training)
    if parts[0].dim() != 2:
        raise ConfigError(
            f"{type(model).__name__} has several vectors for an image, which cannot be clustered. "
            "Set --data.neighbours_by regions."
        )
    return torch.cat(parts)


def neighbour_order(
    store: Store,
    split: str,
    points: Tensor | None,
    *,
    labels: Tensor | None = None,
    clusters: int,
    per_cluster: int,
    batch_size: int,
    batches: int,
    seed: int,
) -> Index:
    """Return (batches * batch_size,) caption rows: in each batch, groups of similar images.

    Args:
        store, split: the training data.   points: ``mean_regions`` of it.
        labels: cluster of each image; the points are not read then.
        clusters: number of clusters.   per_cluster: K, images of one cluster in a batch.
        batch_size: pairs of all ranks; P is ``batch_size // per_cluster``.
        batches: per epoch.   seed: the same seed draws the same batches.

    Raises: UsageError: a batch needs more images than there are.
    """
    captions = store.caption_rows(split)
    owner = store.caption_image_rows(split)
    used = np.unique(owner)  # images with captions
    ends = np.searchsorted(owner, used), np.searchsorted(owner, used, side="right")
    of_image = [captions[a:b].tolist() for a, b in zip(*ends, strict=True)]
    drawn = neighbour_batches(
        None if points is None else points[used],
        of_image,
        labels=None if labels is None else labels[used],
        clusters=clusters,
        per_batch=batch_size // per_cluster,
        per_cluster=per_cluster,
        batches=batches,
        seed=seed,
    )
    return np.asarray([caption for batch in drawn for _, caption in batch], np.int64)


def k_means(points: Tensor, clusters: int, *, rounds: int = 20, seed: int = 0) -> Tensor:
    """Return the cluster of each of (N, d) points: Lloyd's algorithm from random points."""
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
    embeddings: Tensor | None,
    captions_of: list[list[int]],
    *,
    labels: Tensor | None = None,
    clusters: int,
    per_batch: int,
    per_cluster: int,
    batches: int,
    seed: int = 0,
) -> list[list[tuple[int, int]]]:
    """Draw batches of P clusters, K images of each cluster and one caption of each image.

    HREM section 3.4; the paper gives neither P, K nor the number of clusters.

    Args:
        embeddings: (N, d) visual embeddings of the training images.
        captions_of: captions of each image.
        labels: cluster of each image; the embeddings are not read then.
        clusters: clusters of the k-means.
        per_batch: P, clusters in a batch.
        per_cluster: K, images of each; batches hold P * K pairs.
        batches: how many batches to draw.
        seed: the same seed draws the same batches.

    Returns:
        ``batches`` lists of (image, caption). If a cluster has fewer than K images, the batch
        contains all of them and is completed with other images.

    Raises: UsageError: a batch needs more images than there are.
    """
    size = per_batch * per_cluster
    if size > len(captions_of):
        raise UsageError(
            f"a batch of {per_batch} x {per_cluster} = {size} images is larger than the split, "
            f"which has {len(captions_of)}. Lower --data.batch_size."
        )
    if labels is None:
        assert embeddings is not None
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
