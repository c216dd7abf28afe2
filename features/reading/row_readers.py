"""Read rows of a large column: by memory map, by positioned reads or through h5py."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError, StoreError
from features.format import read_into
from features.reading.fork_locks import fork_safe_lock
from features.reading.integrity import Piece, open_checked
from features.reading.memory_map import advise
from features.reading.row_copy import copy_row, take_rows

BACKENDS = ("auto", "mmap", "pread", "h5py")
MAX_FILES = 256  # open at a time and column: systems allow a process about 1024
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


class _ReadAhead:
    """Choose the rows that are worth a hint to the kernel.

    A hint costs a system call, even when the row is in the page cache. A column that fits in memory
    stays there once it has been read, so each of its rows is hinted once.
    """

    def __init__(self, rows: int, nbytes: int):
        self.hinted = np.zeros(rows, bool) if nbytes < MEMORY // 2 else None

    def worth(self, rows: Index) -> Index:
        """Return the rows to hint."""
        if self.hinted is None:
            return rows
        rows = rows[~self.hinted[rows]]
        self.hinted[rows] = True
        return rows


class MappedRows:
    """Rows of arrays: one over all shards, or one per shard; memory maps or in memory.

    Here and in the other readers, the rows to gather are valid and ``out`` is contiguous.
    """

    def __init__(self, arrays: Sequence[Array], *, trusts_length: bool = True):
        self.trusts_length = trusts_length  # False for copies in memory
        self.arrays = list(arrays)
        self.starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        self.ahead = _ReadAhead(int(self.starts[-1]), sum(array.nbytes for array in self.arrays))

    def array(self) -> Array:
        """Return all rows: a view of the map, or a read-only copy if there are several maps."""
        if len(self.arrays) == 1:
            return self.arrays[0]
        whole = np.concatenate(self.arrays)
        whole.flags.writeable = False
        return whole

    def gather(self, rows: Index, out: Array) -> None:
        """Copy rows into ``out``, cast to its dtype."""
        if len(self.arrays) == 1:
            take_rows(self.arrays[0], rows, out)
            return
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            source, local = self.arrays[shard], rows[at] - self.starts[shard]
            for position, row in zip(at.tolist(), local.tolist(), strict=True):
                out[position] = source[row]

    def prefetch(self, rows: Index) -> None:
        """Hint that these rows will be gathered soon."""
        if len(self.arrays) == 1:
            advise(self.arrays[0], self.ahead.worth(rows))


class _Descriptor:
    """An open file, closed with its last reference: another thread may still read it."""

    def __init__(self, piece: Piece):
        self.number = open_checked(piece)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _OpenFiles:
    """The most recently used files of a column; each process opens its own after a fork."""

    def __init__(self, pieces: Sequence[Piece], opener: Callable[[Piece], Any]):
        self.pieces, self.opener = pieces, opener
        self._lock = fork_safe_lock(self)
        self.pid, self.files = os.getpid(), cast("dict[int, Any]", {})

    def get(self, shard: int) -> Any:
        with self._lock:
            if self.pid != os.getpid():
                self.pid, self.files = os.getpid(), {}
            file = self.files.pop(shard, None) or self.opener(self.pieces[shard])
            self.files[shard] = file  # at the end: the first is the least recently used
            if len(self.files) > MAX_FILES:
                del self.files[next(iter(self.files))]
            return file


class PreadRows:
    """Rows by positioned reads: for network file systems where page faults are slow."""

    trusts_length = False  # a read beyond the end is an error

    def __init__(self, pieces: Sequence[Piece], shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.shape, self.dtype = shape, dtype
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.pieces, self.files = pieces, _OpenFiles(pieces, _Descriptor)
        self.starts = np.cumsum([0, *(piece.rows for piece in pieces)])
        rows = int(self.starts[-1])
        self.ahead = _ReadAhead(rows, rows * self.row_bytes)

    def gather(self, rows: Index, out: Array) -> None:
        """Copy rows into ``out``, cast to its dtype."""
        same = out.dtype == self.dtype
        target = out if same else np.empty((1, *self.shape), self.dtype)
        for position, (shard, at) in enumerate(self._places(rows)):
            view = target[position : position + 1].data.cast("B") if same else target.data.cast("B")
            file = self.files.get(shard)
            read_into(file.number, self.pieces[shard].path, view, at)
            if not same:
                copy_row(target, out[position : position + 1])

    def prefetch(self, rows: Index) -> None:
        """Hint that these rows will be gathered soon."""
        if hasattr(os, "posix_fadvise"):
            for shard, at in self._places(self.ahead.worth(rows)):
                file = self.files.get(shard)
                os.posix_fadvise(file.number, at, self.row_bytes, os.POSIX_FADV_WILLNEED)

    def _places(self, rows: Index) -> list[tuple[int, int]]:
        """Return the shard of each row and its first byte in the file."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        inside = (rows - self.starts[shards]) * self.row_bytes
        return [
            (shard, self.pieces[shard].offset + at)
            for shard, at in zip(shards.tolist(), inside.tolist(), strict=True)
        ]


class H5Rows:
    """Rows through h5py: slower, but independent of our own reading of the files."""

    trusts_length = False  # it looks after every row, since HDF5 reads zeros beyond the end

    def __init__(self, pieces: Sequence[Piece], name: str):
        self.starts = np.cumsum([0, *(piece.rows for piece in pieces)])
        self.name = name
        self.files = _OpenFiles(pieces, self._open)

    def _open(self, piece: Piece) -> Any:
        import h5py  # loads libhdf5, which the other backends do not need

        try:
            return h5py.File(piece.path, "r", locking=False)[self.name]
        except (OSError, KeyError) as error:
            os.close(open_checked(piece))  # raises if the system cannot open it
            raise DamagedError(
                f"{piece.path}: HDF5 cannot read {self.name!r} ({error})."
            ) from error

    def gather(self, rows: Index, out: Array) -> None:
        """Copy rows into ``out``, cast to its dtype."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for position, (row, shard) in enumerate(zip(rows.tolist(), shards.tolist(), strict=True)):
            try:
                dataset = self.files.get(shard)
                out[position] = dataset[row - int(self.starts[shard])]
                size = os.fstat(dataset.file.id.get_vfd_handle()).st_size
            except StoreError:
                raise
            except OSError as error:
                path = self.files.pieces[shard].path
                raise DamagedError(f"{path}: HDF5 cannot read row {row} ({error}).") from error
            piece = self.files.pieces[shard]
            if size < piece.size:
                raise DamagedError(f"{piece.path}: {size} bytes, {piece.size} were written.")

    def prefetch(self, rows: Index) -> None:
        """Do nothing: HDF5 has no hints."""
