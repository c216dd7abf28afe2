"""Check the files of a group before anything is read from them.

Readers find columns at the offsets that the manifest lists and would not notice damage elsewhere in
a file. So ``open_checked`` compares a file's size and HDF5 headers with the manifest, and
``HeaderCheck`` hashes all bytes outside the datasets when a shard is first read. ``LengthCheck``
notices a file that is cut while it is open: reading a map beyond its end would kill the process.
None reads the shards that nobody asks for: a store of thousands of shards still opens fast.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError
from features.format import REPAIR, GroupManifest, closing, hash_rest, open_file

Index = npt.NDArray[np.int64]


class Piece(NamedTuple):
    """The part of a column that lies in one file.

    Attributes:
        path: the file.   size: its size in bytes.
        offset, rows: first byte and number of rows of the column.
        stop, head: end of the HDF5 headers and their CRC-32; "" = do not check.
    """

    path: str
    size: int
    offset: int = 0
    rows: int = 0
    stop: int = 0
    head: str = ""


def open_checked(piece: Piece) -> int:
    """Open a shard file and check its size and HDF5 headers; return the file descriptor.

    Raises:
        DamagedError: the file is missing or differs from what was written.
        StoreError: the operating system cannot open it.
    """
    descriptor = open_file(piece.path, piece.size)
    if piece.head and f"{zlib.crc32(os.pread(descriptor, piece.stop, 0)):08x}" != piece.head:
        os.close(descriptor)
        raise DamagedError(f"{piece.path}: the HDF5 headers differ from what was written. {REPAIR}")
    return descriptor


class HeaderCheck:
    """Check the bytes outside the datasets, HDF5 headers and gaps, once per shard of a group.

    Attributes:
        done: True when every shard has been checked.
    """

    def __init__(self, manifest: GroupManifest):
        self.manifest = manifest
        self.done = False
        self._pending = np.ones(len(manifest.rows), bool)
        self._ends = np.cumsum(manifest.rows)
        self._spans: list[tuple[list[int], list[int]]] = []

    def rows(self, rows: Index) -> None:
        """Check the shards of these image rows that have not been checked.

        Raises: DamagedError: a shard is missing or differs from what was written.
        """
        shards = np.searchsorted(self._ends, rows, side="right")
        if self._pending[shards].any():
            self._check(np.unique(shards[self._pending[shards]]))

    def all(self) -> None:
        """Check every shard that has not been checked.

        Raises: DamagedError: a shard is missing or differs from what was written.
        """
        if not self.done:
            self._check(np.flatnonzero(self._pending))

    def _check(self, shards: Index) -> None:
        manifest = self.manifest
        if not self._spans:  # as lists: a ``Part`` for every dataset of every shard is slow
            for parts in manifest.parts.values():
                ends = parts.offsets + parts.lengths * parts.row_bytes
                self._spans.append((parts.offsets.tolist(), ends.tolist()))
        for shard in shards.tolist():
            path, size = f"{manifest.folder}/{shard:05d}.h5", manifest.sizes[shard]
            with closing(open_file(path, size)) as descriptor:
                spans = [(starts[shard], ends[shard]) for starts, ends in self._spans]
                rest = hash_rest(descriptor, path, size, spans)
            if rest != manifest.rests[shard]:
                raise DamagedError(
                    f"{path}: the HDF5 headers differ from what was written. {REPAIR}"
                )
            self._pending[shard] = False
        self.done = not self._pending.any()


class LengthCheck:
    """Check that the files of a group have not been cut since they were opened.

    Files of groups with few shards are kept open for this; those of others are looked up by name.
    """

    KEPT_OPEN = 64
    SAME_SECONDS = 0.001  # the columns of one batch are read one after another

    def __init__(self, manifest: GroupManifest):
        self.manifest = manifest
        self._ends = np.cumsum(manifest.rows)
        self._files: dict[int, int] = {}
        self._last: tuple[Index | None, float] = None, 0.0
        weakref.finalize(self, _close_all, self._files)

    def rows(self, rows: Index) -> None:
        """Check the shards of image rows, unless the same array was checked just before.

        Raises: DamagedError: a file is shorter than it was written.
        """
        now = time.monotonic()
        same, checked = self._last
        if rows is same and now - checked < self.SAME_SECONDS:
            return
        for shard in set(np.searchsorted(self._ends, rows, side="right").tolist()):
            size, wanted = self._size(shard), self.manifest.sizes[shard]
            if size < wanted:
                raise DamagedError(
                    f"{self.manifest.folder}/{shard:05d}.h5: {size} bytes, {wanted} were written: "
                    f"the file was cut while it was open. {REPAIR}"
                )
        self._last = rows, now

    def _size(self, shard: int) -> int:
        path = f"{self.manifest.folder}/{shard:05d}.h5"
        try:
            if len(self.manifest.sizes) > self.KEPT_OPEN:
                return os.stat(path).st_size  # noqa: PTH116  (a Path takes longer than the call)
            if shard not in self._files:
                self._files[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.lseek(self._files[shard], 0, os.SEEK_END)
        except OSError:  # deleted: a map or an open file still has the contents
            return self.manifest.sizes[shard]


def _close_all(files: dict[int, int]) -> None:
    for descriptor in files.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
