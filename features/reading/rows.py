"""Reading rows of a large column: memory map, positioned reads or h5py behind one interface."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError, UsageError
from features.reading.buffers import aligned_empty
from features.reading.locks import lock_of
from features.reading.mmap import (
    PageCache,
    Piece,
    advise,
    map_each,
    map_one,
    one_map_fits,
    open_checked,
    read_into,
)

__all__ = [
    "BACKENDS",
    "ArrayRows",
    "H5Rows",
    "PreadRows",
    "RowReader",
    "checked_rows",
    "faster",
    "first_overflow",
    "map_rows",
]

BACKENDS = ("auto", "mmap", "pread", "h5py")
_LARGE_ROW = 4096  # bytes from which torch's set-up pays
_ALIGNED = 32  # bytes; memmove is at its best when both sides begin on a multiple
_FUSED_ROW = 32768  # bytes from which a cast row by row beats a gather and a cast
_TORCH_KINDS = {"<f2": "float16", "<f4": "float32"}
_PROBE_ROWS = 4
_MOST_FILES = 256  # open at a time and column: systems allow a process 1024 or so
_PREAD_WINS = 0.4  # positioned reads must be far faster, as on some network file systems

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


def checked_rows(rows: Sequence[int] | Array, count: int, what: str = "rows") -> Index:
    """Return rows that a caller gave as an index: integers of 0 .. count - 1.

    Raises: UsageError: they are something else; numpy would take other rows for some of them.
    """
    index = np.asarray(rows)
    if index.size and index.dtype.kind not in "iu":
        raise UsageError(f"{what} must be integers, not {index.dtype}.")
    index = index.astype(np.int64, copy=False).reshape(-1)
    if index.size and not (int(index.min()) >= 0 and int(index.max()) < count):
        raise UsageError(f"{what} must lie in 0 .. {count - 1}.")
    return index


class RowReader(Protocol):
    """A column of equal rows, spread over shards."""

    def gather(self, rows: Index, out: Array) -> None:
        """Copy rows into ``out``, cast to its dtype; rows are valid, ``out`` is contiguous."""
        ...

    def prefetch(self, rows: Index) -> None:
        """Hint that these rows will be gathered soon."""
        ...


class ArrayRows:
    """Rows of arrays: one over all shards, or one per shard; memory maps or memory.

    Args:
        arrays: all rows.   cache: what tells of a map's rows whether they are in memory.
    """

    def __init__(self, arrays: Sequence[Array], cache: PageCache | None = None):
        self.arrays, self.cache = list(arrays), cache
        self.starts = np.cumsum([0, *(len(array) for array in self.arrays)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.starts[-1])

    def array(self) -> Array:
        """Return all rows: a view of the map, or a read-only copy where there are several maps."""
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
        """Start reading rows that are not in memory; costs next to nothing when they are."""
        if self.cache is not None and len(self.arrays) == 1 and not self.cache.holds(rows):
            advise(self.arrays[0], rows)


def map_rows(pieces: Sequence[Piece], shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArrayRows:
    """Map a column: into one array over all shards where that fits, else one per shard."""
    row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    cache = PageCache(pieces, row_bytes)
    if one_map_fits(pieces, row_bytes):
        return ArrayRows([map_one(pieces, shape, dtype)], cache)
    return ArrayRows(map_each(pieces, shape, dtype), cache)


def take_rows(source: Array, rows: Index, out: Array) -> None:
    """Copy rows of an array into ``out`` with the cast fused, by torch where that is faster.

    numpy's ``take`` is a ``memmove`` per row, the fastest copy there is when source and ``out``
    are aligned alike (``aligned_empty``), up to twice as slow as torch's when they are not. numpy's
    cast of halves is slow always; a torch that is loaded does it.
    """
    if not len(rows):
        return
    known = {source.dtype.str, out.dtype.str} <= _TORCH_KINDS.keys()
    torch = sys.modules.get("torch") if known else None
    same, row_bytes = out.dtype == source.dtype, source[:1].nbytes
    if same and (torch is None or row_bytes < _LARGE_ROW or _aligned_alike(source, out)):
        # mode="raise" would go through a second buffer; the rows are checked before
        np.take(source, rows, axis=0, out=out, mode="clip")
        return
    if torch is None:
        out[...] = source[rows]
        return
    if not same and row_bytes < _FUSED_ROW:
        chosen = aligned_empty(out.shape, source.dtype)
        np.take(source, rows, axis=0, out=chosen, mode="clip")
        torch.from_numpy(out).copy_(torch.from_numpy(chosen))
        return
    # a tensor over a map must never be written to: it stays in this function
    private = torch.frombuffer(
        (ctypes.c_ubyte * source.nbytes).from_address(source.ctypes.data),
        dtype=getattr(torch, _TORCH_KINDS[source.dtype.str]),
    ).view(source.shape)
    target = torch.from_numpy(out)
    if same:
        torch.index_select(private, 0, torch.from_numpy(np.ascontiguousarray(rows)), out=target)
        return
    # one call for all rows: each of its own costs a microsecond more than its copy
    torch._foreach_copy_(target.unbind(), [private[row] for row in rows.tolist()])


def first_overflow(halves: Array) -> int | None:
    """Return the first row of float16 in which a value is not finite; None when all are.

    By their bits: numpy's ``isfinite`` takes several times as long as the copy before.
    """
    bits = halves.view(np.int16)  # infinity is 0x7C00, and the sign bit; behind it come the NaN
    if not bits.size or (int(bits.max()) < 0x7C00 and int(bits.view(np.uint16).max()) < 0xFC00):
        return None
    return next(at for at, row in enumerate(halves) if not np.isfinite(row).all())


def _aligned_alike(source: Array, out: Array) -> bool:
    apart = abs(out.ctypes.data - source.ctypes.data) | source[:1].nbytes
    return apart % _ALIGNED == 0


def _copy_row(source: Array, out: Array) -> None:
    """Copy one row with a cast, by torch where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is None or source.dtype.str not in _TORCH_KINDS or out.dtype.str not in _TORCH_KINDS:
        out[...] = source
    else:
        torch.from_numpy(out).copy_(torch.from_numpy(source))


class _Descriptor:
    """An open file, closed with the last reference: a reader in another thread may still use it."""

    def __init__(self, piece: Piece):
        self.number = open_checked(piece)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Files:
    """Open files of the pieces, the last used ones; a set per process: never shared with a fork."""

    def __init__(self, pieces: Sequence[Piece], opener: Callable[[Piece], Any]):
        self.pieces, self.opener = pieces, opener
        self._lock = lock_of(self)
        self.pid, self.files = os.getpid(), cast("dict[int, Any]", {})

    def get(self, shard: int) -> Any:
        with self._lock:
            if self.pid != os.getpid():
                self.pid, self.files = os.getpid(), {}
            file = self.files.pop(shard, None) or self.opener(self.pieces[shard])
            self.files[shard] = file  # last: the first one is the one not used for longest
            if len(self.files) > _MOST_FILES:
                del self.files[next(iter(self.files))]
            return file


class PreadRows:
    """Rows by positioned reads: for network file systems where page faults are slow."""

    def __init__(self, pieces: Sequence[Piece], shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.shape, self.dtype = shape, dtype
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.cache = PageCache(pieces, self.row_bytes)
        self.files = _Files(pieces, _Descriptor)

    def gather(self, rows: Index, out: Array) -> None:
        """Copy rows into ``out``, cast to its dtype."""
        if not self.row_bytes:
            return
        same = out.dtype == self.dtype
        target = out if same else np.empty((1, *self.shape), self.dtype)
        for position, (shard, at) in enumerate(self.cache.places(rows)):
            view = target[position : position + 1].data.cast("B") if same else target.data.cast("B")
            file = self.files.get(shard)
            read_into(file.number, view, at)
            if not same:
                _copy_row(target, out[position : position + 1])

    def prefetch(self, rows: Index) -> None:
        """Start reading rows that are not in memory; costs next to nothing when they are."""
        if not hasattr(os, "posix_fadvise") or self.cache.holds(rows):
            return
        for shard, at in self.cache.places(rows):
            file = self.files.get(shard)
            os.posix_fadvise(file.number, at, self.row_bytes, os.POSIX_FADV_WILLNEED)


class H5Rows:
    """Rows through h5py: slower, reads whatever HDF5 reads."""

    def __init__(self, pieces: Sequence[Piece], name: str):
        self.starts = np.cumsum([0, *(piece.rows for piece in pieces)])
        self.name = name
        self.files = _Files(pieces, self._open)

    def _open(self, piece: Piece) -> Any:
        import h5py

        try:
            return h5py.File(piece.path, "r", locking=False)[self.name]
        except (OSError, KeyError) as error:
            os.close(open_checked(piece))  # says so where the system would not open it
            raise DamagedError(
                f"{piece.path}: HDF5 cannot read {self.name!r} ({error})."
            ) from error

    def gather(self, rows: Index, out: Array) -> None:
        """Copy rows into ``out``, cast to its dtype."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for position, (row, shard) in enumerate(zip(rows.tolist(), shards.tolist(), strict=True)):
            out[position] = self.files.get(shard)[row - int(self.starts[shard])]

    def prefetch(self, rows: Index) -> None:
        """HDF5 has no read-ahead."""


def faster(mapped: ArrayRows, pread: PreadRows) -> RowReader:
    """Time a few rows by map and by positioned reads; return the reader to use.

    Maps serve everything else better, so positioned reads must be far faster. The rows are asked
    for ahead, as the loader does it: without that, a map reads pages that must come from a disk in
    small pieces. The first touch of a page that is in memory costs the map a fault that no later
    one pays: it is not timed.
    """
    total = len(mapped)
    if total < 8 * _PROBE_ROWS:
        return mapped
    # the best of three turns each: one slow turn of a busy machine must not decide
    rows = np.linspace(0, total - 1, 6 * _PROBE_ROWS).astype(np.int64).reshape(3, 2, -1)
    out = aligned_empty((_PROBE_ROWS, *pread.shape), pread.dtype)
    spent: list[list[float]] = [[], []]
    readers: tuple[RowReader, RowReader] = (mapped, pread)
    for turn in rows:
        if pread.cache.holds(turn[0]):
            mapped.gather(turn[0], out)
        for reader, chosen, times in zip(readers, turn, spent, strict=True):
            began = time.perf_counter()
            reader.prefetch(chosen)
            reader.gather(chosen, out)
            times.append(time.perf_counter() - began)
    return pread if min(spent[1]) < _PREAD_WINS * min(spent[0]) else mapped
