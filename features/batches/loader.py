"""Batches of a store: shuffled pairs for training, images or captions in order for evaluation.

The order of a training epoch depends on (seed, epoch) alone; a rank takes every ``world``-th row,
and a step the next ``batch_size`` of those. So (seed, epoch, step) is the whole state: a job
resumed from it sees the batches that it would have seen, whatever the number of threads. The ranks
together see every row once, and a step sees the same rows for any number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.batches.batch import CaptionBatch, ImageBatch
from features.batches.buffer_pool import BufferPool
from features.batches.caption_encoder import CaptionColumns, CaptionEncoder
from features.batches.epoch_order import epoch_order, rank_slice
from features.batches.image_encoder import Graphs, ImageEncoder
from features.batches.prefetch import prefetched
from features.errors import UsageError
from features.reading import StoreReader
from features.vocab import Codebook

if TYPE_CHECKING:
    import torch

Index = npt.NDArray[np.int64]

BLOCK = 1024  # captions that are encoded together: a numpy call takes microseconds
AHEAD = 2  # batches that are read ahead before they are gathered


class Loader:
    """Training batches of (images, captions): row i of both is a caption and its image.

    >>> for images, captions in store.loader("train", batch_size=128, seed=1):  # doctest: +SKIP
    ...     loss = model.loss(images, captions)

    Iterating again repeats the epoch; ``loader.epoch = 3`` or ``set_epoch`` selects another one.
    Batches may be kept: their memory is reused only once their last tensor is gone.

    Args:
        store: the store.
        split: a split, or a part of one such as ``train[:1000]``.
        codebook: ids of words, labels, predicates and tags.
        batch_size: captions per batch.
        seed, epoch: determine the order; at least 0.
        shuffle: False = in the order of the store.
        rank, world: number of this process and of all processes. All get the same number of
            batches; the last one may be smaller on some ranks, or have no rows.
        start_step: steps to skip in the first iteration, to continue after a checkpoint.
        features: False leaves region features out (width 0).
        unions: False leaves the features of union boxes out; only SGM and CFSGR use them.
        order: ``random``, ``block`` (for data larger than memory) or ``sequential``.
        device: device of the batches; copies to CUDA overlap with the computation.
        dtype: dtype of the features, ``float32`` or ``float16``.
        drop_last: leave out the last batch if it is smaller on any rank.
        prefetch: batches made ahead by a thread; 0 = made when requested.
        variant: variant of the regions group.

    Raises: UsageError, UnknownName: an argument is invalid.
    """

    def __init__(
        self,
        store: StoreReader,
        split: str,
        codebook: Codebook,
        *,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        features: bool = True,
        unions: bool = True,
        order: str = "random",
        device: torch.device | str | None = None,
        dtype: str = "float32",
        drop_last: bool = False,
        prefetch: int = 1,
        variant: str = "",
    ):
        if batch_size < 1 or start_step < 0 or prefetch < 0:
            raise UsageError("batch_size must be at least 1, start_step and prefetch at least 0.")
        self.store, self.split, self.batch_size = store, split, batch_size
        self.seed, self.epoch, self.start_step = seed, epoch, start_step
        self.order = order if shuffle else "sequential"
        self.rank, self.world, self.drop_last, self.prefetch = rank, world, drop_last, prefetch
        self.device = device
        cuda = device is not None and str(device).startswith("cuda")
        self.pool = BufferPool(pinned=cuda)
        self._cast = dtype if cuda else None
        self._images = ImageEncoder(
            store,
            codebook,
            features=features,
            unions=unions,
            dtype=dtype,
            halves=cuda,  # CUDA casts faster than the bus carries float32
            variant=variant,
            pool=self.pool,
        )
        self._captions = CaptionEncoder(CaptionColumns.of_store(store), codebook)
        self._rows = store.caption_rows(split)
        self.epoch_rows()  # raises now if order, rank or world are invalid

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Set the epoch of the next iteration, and its first step."""
        self.epoch, self.start_step = epoch, start_step

    def epoch_rows(self) -> Index:
        """Return the caption rows of this rank in the order of the epoch.

        Raises: UsageError: seed, epoch, rank or world is invalid.
        """
        if self.seed < 0 or self.epoch < 0:
            raise UsageError(f"seed {self.seed}, epoch {self.epoch}: both must be at least 0.")
        images = self.store.image_of_caption(self._rows)
        ordered = epoch_order(
            self._rows, images, order=self.order, seed=self.seed, epoch=self.epoch
        )
        return rank_slice(ordered, self.rank, self.world)

    @property
    def steps(self) -> int:
        """Number of batches of a whole epoch, the same on every rank."""
        together = self.batch_size * self.world
        return (len(self._rows) + (0 if self.drop_last else together - 1)) // together

    def __len__(self) -> int:
        """Return the number of batches of the next iteration, from ``start_step`` on."""
        return max(self.steps - self.start_step, 0)

    def __iter__(self) -> Iterator[tuple[ImageBatch, CaptionBatch]]:
        """Iterate over the rest of the epoch."""
        order, size = self.epoch_rows(), self.batch_size
        steps = range(self.start_step, self.steps)
        first = order[steps.start * size : (steps.start + AHEAD) * size]
        self._images.prefetch(self.store.image_of_caption(first))
        block = max(BLOCK // size, 1) * size
        waiting: deque[tuple[Graphs, CaptionBatch]] = deque()
        self.start_step = 0

        def make(step: int) -> tuple[ImageBatch, CaptionBatch]:
            if (step - steps.start) % AHEAD == 0:
                soon = order[(step + AHEAD) * size : (step + 2 * AHEAD) * size]
                self._images.prefetch(self.store.image_of_caption(soon))
            rows = order[step * size : step * size + block]
            if not len(rows):
                return self._empty()
            if not waiting:
                images = self.store.image_of_caption(rows)
                small = self._images.graphs(images, size)
                waiting.extend(zip(small, self._captions.batches(rows, images, size), strict=True))
            graphs, captions = waiting.popleft()
            return self._images.with_features(graphs), captions

        for images, captions in prefetched(make, steps, self.prefetch):
            yield self._move(images, captions)

    def _empty(self) -> tuple[ImageBatch, CaptionBatch]:
        """Return a batch without rows, for a rank that has none in the last step."""
        rows, none = self._rows[:1], slice(0, 0)
        of = self.store.image_of_caption(rows)
        return self._images.batch(of).index(none), self._captions.batch(rows, of).index(none)

    def _move(self, images: ImageBatch, captions: CaptionBatch) -> tuple[ImageBatch, CaptionBatch]:
        if self.device is None:
            return images, captions
        if self._cast is None:
            return images.to(self.device), captions.to(self.device)
        import torch  # slow to load

        moved = images.to(self.device, non_blocking=True)
        captions = captions.to(self.device, non_blocking=True)
        wide = torch.float32 if self._cast == "float32" else torch.float16
        moved = dataclasses.replace(
            moved, objects=moved.objects.to(wide), unions=moved.unions.to(wide)
        )
        # the pinned memory returns to the pool with ``images``: not before the copy is done
        torch.cuda.current_stream(moved.objects.device).synchronize()
        return moved, captions


def image_batches(
    store: StoreReader,
    split: str,
    batch_size: int,
    codebook: Codebook,
    *,
    device: torch.device | str | None = None,
    **options: Any,
) -> Iterator[ImageBatch]:
    """Yield each image of a split once, in row order.

    Args:
        store: the store.
        split: a split, or a part of one such as ``val[:500]``.
        batch_size: images per batch.
        codebook: ids of labels and predicates.
        device, options: ``features``, ``unions``, ``dtype`` and ``variant``, as for ``Loader``.

    Raises: UsageError: ``batch_size`` is less than 1.
    """
    _check_size(batch_size)
    rows = store.image_rows(split)
    encoder = ImageEncoder(store, codebook, **options)

    def make(step: int) -> ImageBatch:
        encoder.prefetch(rows[(step + 1) * batch_size : (step + 1 + AHEAD) * batch_size])
        return encoder.batch(rows[step * batch_size : (step + 1) * batch_size])

    for batch in prefetched(make, range(-(-len(rows) // batch_size)), 1):
        yield batch if device is None else batch.to(device)


def caption_batches(
    store: StoreReader,
    split: str,
    batch_size: int,
    codebook: Codebook,
    *,
    device: torch.device | str | None = None,
) -> Iterator[CaptionBatch]:
    """Yield each caption of a split once, in row order and therefore image by image.

    Args:
        store: the store.
        split: a split, or a part of one such as ``val[:500]``.
        batch_size: captions per batch.
        codebook: ids of words, tags and word pieces.
        device: device of the batches.

    Raises: UsageError: ``batch_size`` is less than 1.
    """
    _check_size(batch_size)
    rows = store.caption_rows(split)
    encoder = CaptionEncoder(CaptionColumns.of_store(store), codebook)
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = encoder.batch(chosen, store.image_of_caption(chosen))
        yield batch if device is None else batch.to(device)


def _check_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
