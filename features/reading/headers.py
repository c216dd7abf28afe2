"""The bytes of shards that belong to no dataset, HDF5 headers and gaps: checked once before use.

Readers find data by the manifest's offsets and would not notice damage there. So the first gather
that touches a shard compares these bytes with their hash, and a column that is read as a whole
those of every shard; opening a store of thousands of shards stays fast.
"""

from __future__ import annotations

import hashlib
import math
import os

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError
from features.format.group import GroupManifest
from features.reading.mmap import Piece, open_checked

__all__ = ["HeaderCheck"]

Index = npt.NDArray[np.int64]


class HeaderCheck:
    """What has been checked of one group.

    Attributes:
        done: every shard is as it was written.
    """

    def __init__(self, manifest: GroupManifest):
        self.manifest = manifest
        self.done = False
        self._pending = np.ones(len(manifest.rows), bool)
        self._ends = np.cumsum(manifest.rows)
        self._spans: tuple[Index, Index] | None = None

    def rows(self, rows: Index) -> None:
        """Check the shards that hold these image rows, where that has not been done.

        Raises: DamagedError: a shard is gone, or is not what was written.
        """
        shards = np.searchsorted(self._ends, rows, side="right")
        if self._pending[shards].any():
            self._check(np.unique(shards[self._pending[shards]]))

    def all(self) -> None:
        """Check every shard where that has not been done.

        Raises: DamagedError: a shard is gone, or is not what was written.
        """
        if not self.done:
            self._check(np.flatnonzero(self._pending))

    def _check(self, shards: Index) -> None:
        manifest = self.manifest
        starts, stops = self._gaps(shards)
        for shard, begin, end in zip(shards.tolist(), starts.tolist(), stops.tolist(), strict=True):
            piece = Piece(f"{manifest.folder}/{shard:05d}.h5", manifest.sizes[shard])
            digest, descriptor = hashlib.sha256(), open_checked(piece)
            try:
                for start, stop in zip(begin, end, strict=True):
                    if start < stop:
                        digest.update(os.pread(descriptor, stop - start, start))
            finally:
                os.close(descriptor)
            if digest.hexdigest() != manifest.rests[shard]:
                raise DamagedError(
                    f"{piece.path}: the HDF5 headers are not what was written. Repair it: "
                    "python -m features verify --repair STORE, then build again."
                )
            self._pending[shard] = False
        self.done = not self._pending.any()

    def _gaps(self, shards: Index) -> tuple[Index, Index]:
        """Return start and stop of the bytes around the datasets, (shards, datasets + 1) each.

        Raises: DamagedError: datasets overlap.
        """
        if self._spans is None:
            begins, ends = [], []
            for parts in self.manifest.parts.values():
                row = math.prod(parts.shape) * np.dtype(parts.dtype).itemsize
                # an empty dataset stands at 0 and ends there: in front of all others
                begins.append(np.where(parts.lengths * row > 0, parts.offsets, 0))
                ends.append(begins[-1] + parts.lengths * row)
            self._spans = np.stack(begins, 1), np.stack(ends, 1)
        begin, end = (span[shards] for span in self._spans)
        order = np.argsort(begin, axis=1, kind="stable")
        zero, sizes = np.zeros(len(shards), np.int64), np.asarray(self.manifest.sizes)[shards]
        starts = np.column_stack([zero, np.take_along_axis(end, order, 1)])
        stops = np.column_stack([np.take_along_axis(begin, order, 1), sizes])
        wrong = np.flatnonzero((stops < starts).any(1))
        if len(wrong):
            path = f"{self.manifest.folder}/{shards[wrong[0]]:05d}.h5"
            raise DamagedError(f"{path}: datasets overlap. Build the group again.")
        return starts, stops
