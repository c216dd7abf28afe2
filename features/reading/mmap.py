"""Read-only memory maps of many files as one array, and hints to the page cache.

On Linux all shards of a column are mapped behind each other into one reserved address range, so
that a gather over shards is one ``take``. The arrays are read-only for good: numpy refuses to make
them writable, and no torch tensor over them leaves this package.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError, StoreError
from features.format.files import unreadable

__all__ = [
    "PAGE",
    "PageCache",
    "Piece",
    "advise",
    "map_each",
    "map_one",
    "one_map_fits",
    "open_checked",
    "read_into",
]

PAGE = mmap.PAGESIZE
_PROT_NONE, _PROT_READ = 0, 1
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 16, 32, 0x4000
_WILLNEED = 3
_FAILED = ctypes.c_void_p(-1).value

Array = npt.NDArray[np.generic]


class Piece(NamedTuple):
    """The bytes of a column that lie in one file.

    Attributes:
        path: the file.   size: its bytes.
        offset, rows: where the column begins, and how many rows it has.
        stop, head: where the HDF5 headers end, and the CRC-32 of them; "" = not checked.
    """

    path: str
    size: int
    offset: int = 0
    rows: int = 0
    stop: int = 0
    head: str = ""


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def open_checked(piece: Piece) -> int:
    """Open a shard and check its size and its HDF5 headers.

    Raises:
        DamagedError: it is gone, or differs from what the manifest says.
        StoreError: the system would not open it.
    """
    try:
        descriptor = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DamagedError(
            f"{piece.path}: is not there. Build the store again; finished shards are kept."
        ) from error
    except OSError as error:
        raise unreadable(Path(piece.path), error) from error
    size, problem = os.fstat(descriptor).st_size, ""
    if size != piece.size:
        problem = f"{size} bytes, {piece.size} were written"
    elif piece.head and f"{zlib.crc32(os.pread(descriptor, piece.stop, 0)):08x}" != piece.head:
        problem = "the HDF5 headers are not what was written"
    if problem:
        os.close(descriptor)
        raise DamagedError(
            f"{piece.path}: {problem}. "
            "Repair it: python -m features verify --repair STORE, then build again."
        )
    return descriptor


def read_into(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill a buffer from a file.

    Raises: DamagedError: the file ends too early.
    """
    done = 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], offset + done)
        if not got:
            raise DamagedError(f"a shard ends at byte {offset + done}. Build the store again.")
        done += got


def one_map_fits(pieces: Sequence[Piece], row_bytes: int) -> bool:
    """Say whether the pieces can stand behind each other in one mapping.

    Every piece but the last must be whole pages; what is not page-aligned is less than a page and
    is copied.
    """
    if sys.platform != "linux" or not row_bytes:
        return False
    whole = all(piece.rows * row_bytes % PAGE == 0 for piece in pieces[:-1])
    return whole and all(
        piece.offset % PAGE == 0 or piece.rows * row_bytes <= PAGE for piece in pieces
    )


def map_one(pieces: Sequence[Piece], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Map all pieces into one read-only array.

    Args:
        pieces: in order; ``one_map_fits`` must hold.
        row_shape: shape of a row.
        dtype: dtype on disk.

    Raises: DamagedError: a file is missing or has another size.
    """
    libc = _libc()
    row_bytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
    total = sum(piece.rows for piece in pieces) * row_bytes
    span = -(-max(total, 1) // PAGE) * PAGE
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    base = libc.mmap(None, span, _PROT_NONE, flags, -1, 0)
    if base == _FAILED:
        raise StoreError(f"cannot reserve {span} bytes of address space; check `ulimit -v`.")
    region = (ctypes.c_ubyte * max(total, 1)).from_address(base)
    release = weakref.finalize(region, libc.munmap, base, span)
    release.atexit = False  # others may still read it then; the system unmaps what is left
    at = base
    for piece in pieces:
        size = piece.rows * row_bytes
        if not size:
            continue
        descriptor = open_checked(piece)
        try:
            if piece.offset % PAGE == 0:
                flags = _MAP_SHARED | _MAP_FIXED
                got = libc.mmap(at, size, _PROT_READ, flags, descriptor, piece.offset)
                _check_mapped(got, piece)
            else:  # less than a page: a copy
                flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS
                _check_mapped(libc.mmap(at, PAGE, _PROT_READ | 2, flags, -1, 0), piece)
                ctypes.memmove(at, os.pread(descriptor, size, piece.offset), size)
        finally:
            os.close(descriptor)
        at += size
    return _frozen(region, total, row_shape, dtype)


def _check_mapped(got: int | None, piece: Piece) -> None:
    if got is None or got == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise StoreError(
            f"{piece.path}: cannot be mapped ({reason}). Open the store with backend='pread'."
        )


def _frozen(buffer: Any, total: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    raw = np.frombuffer(memoryview(buffer).toreadonly(), np.uint8)[:total]
    return raw.view(dtype).reshape(-1, *shape)


def map_each(
    pieces: Sequence[Piece], row_shape: tuple[int, ...], dtype: np.dtype[Any]
) -> list[Array]:
    """Map every piece into its own read-only array: where one map does not fit.

    Raises: DamagedError: a file is missing or has another size.
    """
    row_bytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
    arrays = []
    for piece in pieces:
        size = piece.rows * row_bytes
        if not size:
            arrays.append(np.zeros((piece.rows, *row_shape), dtype))
            continue
        descriptor = open_checked(piece)
        try:
            start = piece.offset // PAGE * PAGE
            length = piece.offset - start + size
            view = mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=start)
        finally:
            os.close(descriptor)
        raw = np.frombuffer(view, np.uint8)[piece.offset - start :]
        arrays.append(raw.view(dtype).reshape(piece.rows, *row_shape))
    return arrays


def advise(array: Array, rows: npt.NDArray[np.int64]) -> None:
    """Ask the kernel to read these rows ahead (``MADV_WILLNEED``); a hint, never an error."""
    if sys.platform != "linux" or not array.size:
        return
    libc, base, size = _libc(), array.ctypes.data, array.strides[0]
    for row in rows.tolist():
        start = (base + row * size) // PAGE * PAGE
        libc.madvise(start, base + (row + 1) * size - start, _WILLNEED)


class PageCache:
    """Knows whether rows of a column lie in memory: it reads a byte of a few, without waiting.

    ``mincore`` tells that to the owner of the files alone, and says yes to everybody else.

    Args:
        pieces: of the column.   row_bytes: of one row.
    """

    def __init__(self, pieces: Sequence[Piece], row_bytes: int):
        self.pieces, self.row_bytes = pieces, row_bytes
        self.starts = np.cumsum([0, *(piece.rows for piece in pieces)])

    def places(self, rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return the piece of each row and its byte there."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        inside = (rows - self.starts[numbers]) * self.row_bytes
        return [
            (number, self.pieces[number].offset + at)
            for number, at in zip(numbers.tolist(), inside.tolist(), strict=True)
        ]

    def holds(self, rows: npt.NDArray[np.int64]) -> bool:
        """Say whether a few of the rows all begin in memory; False where the system cannot tell."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        for number, at in self.places(rows[:: max(len(rows) // 4, 1)]):
            try:
                descriptor = os.open(self.pieces[number].path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if not os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT):
                        return False
                finally:
                    os.close(descriptor)
            except OSError:  # it would wait, or this file system knows no such reads
                return False
        return True
