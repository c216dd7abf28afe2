"""Batches of a store: for training (pairs, shuffled, prefetched) and for evaluation (in order).

The order of a training epoch depends on (seed, epoch) alone, a rank takes every ``world``-th row,
and a step takes the next ``batch_size`` of them. So (seed, epoch, step) is the whole state: a job
resumed from it sees what it would have seen, whatever the number of threads. Together the ranks see
every row once: a step's rows are the same whatever the number of ranks that share them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.batches.captions import CaptionEncoder, columns_of_store
from features.batches.images import ImageEncoder
from features.batches.order import epoch_order, rank_slice
from features.batches.prefetch import prefetched
from features.errors import UsageError
from features.reading.buffers import BufferPool

if TYPE_CHECKING:
    import torch

    from features.batches.batch import CaptionBatch, ImageBatch
    from features.batches.images import Graphs
    from features.store import Store
    from features.vocab.codebook import Codebook

__all__ = ["Loader", "caption_batches", "image_batches"]

Index = npt.NDArray[np.int64]

_BLOCK = 1024  # captions whose graphs and words are made together: a numpy call costs microseconds
AHEAD = 2  # batches whose pages are asked for before they are gathered


class Loader:
    """Training batches: each row is a caption and its image.

    >>> for images, captions in store.loader("train", batch_size=128, seed=1):  # doctest: +SKIP
    ...     loss = model.loss(images, captions)

    Iterating again gives the same epoch; ``loader.epoch = 3`` (or ``set_epoch``) the order of
    another one. Batches may be kept: their memory is reused only after the last tensor is gone.

    Args:
        store: the opened store.
        split: a split's name.
        batch_size: captions per batch.
        codebook: ids; the store's default one when not given.
        seed, epoch: what the order depends on, at least 0.
        shuffle: False = as stored.
        rank, world: this process among how many; all get equally many batches, of which the last
            may be smaller on some ranks, even empty (no rows, but the widths of any other).
        start_step: steps of the first iteration to leave out, to go on after a checkpoint.
        features: False leaves region features out.
        unions: False leaves those of union boxes out (width 0): SGM and CFSGR alone look at them.
        order: ``random``, ``block`` (data larger than memory) or ``sequential``.
        device: where the batches go; on CUDA through pinned memory, beside the computation.
        dtype: dtype of the features, ``float32`` or ``float16``.
        drop_last: leave out the last batch when it is smaller on any rank.
        prefetch: batches made ahead by one thread; 0 = none, made when asked for.
        variant: variant of the regions group.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        *,
        batch_size: int,
        codebook: Codebook | None = None,
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
        codebook = codebook or store.codebook
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
        self._captions = CaptionEncoder(columns_of_store(store), codebook)
        self._rows = store.caption_rows(split)
        self.epoch_rows()  # order, rank and world make sense, or say so now

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch of the next iteration, and the step to begin with."""
        self.epoch, self.start_step = epoch, start_step

    def epoch_rows(self) -> Index:
        """Return the caption rows of this rank in the order of the epoch.

        Raises: UsageError: seed or epoch is negative, or rank and world make no sense.
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
        """Batches of a whole epoch, as many on every rank."""
        together = self.batch_size * self.world
        return (len(self._rows) + (0 if self.drop_last else together - 1)) // together

    def __len__(self) -> int:
        """Return the batches of the next iteration: those of the epoch behind ``start_step``."""
        return max(self.steps - self.start_step, 0)

    def __iter__(self) -> Iterator[tuple[ImageBatch, CaptionBatch]]:
        """Iterate over the rest of the epoch."""
        order, size = self.epoch_rows(), self.batch_size
        steps = range(self.start_step, self.steps)
        first = order[steps.start * size : (steps.start + AHEAD) * size]
        self._images.prefetch(self.store.image_of_caption(first))
        block = max(_BLOCK // size, 1) * size
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
        """Return the batch of a rank without a row in the last step: widths of some row, no row."""
        rows, none = self._rows[:1], slice(0, 0)
        of = self.store.image_of_caption(rows)
        return self._images.batch(of).index(none), self._captions.batch(rows, of).index(none)

    def _move(self, images: ImageBatch, captions: CaptionBatch) -> tuple[ImageBatch, CaptionBatch]:
        if self.device is None:
            return images, captions
        if self._cast is None:
            return images.to(self.device), captions.to(self.device)
        import dataclasses

        import torch

        moved = images.to(self.device, non_blocking=True)
        captions = captions.to(self.device, non_blocking=True)
        wide = torch.float32 if self._cast == "float32" else torch.float16
        moved = dataclasses.replace(
            moved, objects=moved.objects.to(wide), unions=moved.unions.to(wide)
        )
        # the pinned memory goes back to the pool when ``images`` goes: not before the copy is done
        torch.cuda.current_stream(moved.objects.device).synchronize()
        return moved, captions


def image_batches(
    store: Store,
    split: str,
    batch_size: int,
    codebook: Codebook | None = None,
    *,
    features: bool = True,
    unions: bool = True,
    dtype: str = "float32",
    device: torch.device | str | None = None,
    variant: str = "",
) -> Iterator[ImageBatch]:
    """Yield each image of a split once, in row order.

    Args:
        store: the opened store.
        split: a split's name.
        batch_size: images per batch.
        codebook: ids; the store's default one when not given.
        features, unions, dtype, device, variant: as for ``Loader``.

    Raises: UsageError: no such batch size.
    """
    _check_size(batch_size)
    rows = store.image_rows(split)
    book = codebook or store.codebook
    encoder = ImageEncoder(
        store, book, features=features, unions=unions, dtype=dtype, variant=variant
    )

    def make(step: int) -> ImageBatch:
        encoder.prefetch(rows[(step + 1) * batch_size : (step + 1 + AHEAD) * batch_size])
        return encoder.batch(rows[step * batch_size : (step + 1) * batch_size])

    for batch in prefetched(make, range(-(-len(rows) // batch_size)), 1):
        yield batch if device is None else batch.to(device)


def caption_batches(
    store: Store,
    split: str,
    batch_size: int,
    codebook: Codebook | None = None,
    *,
    device: torch.device | str | None = None,
) -> Iterator[CaptionBatch]:
    """Yield each caption of a split once, in row order (so image by image).

    Args:
        store: the opened store.
        split: a split's name.
        batch_size: captions per batch.
        codebook: ids; the store's default one when not given.
        device: where the batches go.

    Raises: UsageError: no such batch size.
    """
    _check_size(batch_size)
    rows = store.caption_rows(split)
    encoder = CaptionEncoder(columns_of_store(store), codebook or store.codebook)
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = encoder.batch(chosen, store.image_of_caption(chosen))
        yield batch if device is None else batch.to(device)


def _check_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
