"""Map columns of many files into memory, read-only.

On Linux, all shards of a column are mapped one after another into a reserved address range, so that
reading rows across shards is a single ``take``. The arrays stay read-only: numpy refuses to make
them writable, and no torch tensor over them leaves this package.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import StoreError
from features.format import closing
from features.reading.integrity import Piece, open_checked

PAGE = mmap.PAGESIZE
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 16, 32, 0x4000
_WILLNEED = 3
_FAILED = ctypes.c_void_p(-1).value

Array = npt.NDArray[np.generic]


def map_pieces(
    pieces: Sequence[Piece], row_shape: tuple[int, ...], dtype: np.dtype[Any]
) -> list[Array]:
    """Map a column: one array over all shards where they fit one map, otherwise one per shard.

    Args:
        pieces: the parts of the column, in order.
        row_shape: shape of a row.
        dtype: dtype on disk.

    Raises: DamagedError: a file is missing or differs from what was written.
    """
    row_bytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
    if fits_one_map(pieces, row_bytes):
        return [_map_together(pieces, row_bytes).view(dtype).reshape(-1, *row_shape)]
    return [
        _map_alone(piece, piece.rows * row_bytes).view(dtype).reshape(piece.rows, *row_shape)
        for piece in pieces
    ]


def fits_one_map(pieces: Sequence[Piece], row_bytes: int) -> bool:
    """Return True if the pieces can be mapped one after another.

    Every piece but the last must fill whole pages. A piece that does not start on a page must be
    at most one page long; it is copied.
    """
    if sys.platform != "linux" or not row_bytes:
        return False
    whole = all(piece.rows * row_bytes % PAGE == 0 for piece in pieces[:-1])
    return whole and all(
        piece.offset % PAGE == 0 or piece.rows * row_bytes <= PAGE for piece in pieces
    )


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _map_together(pieces: Sequence[Piece], row_bytes: int) -> Array:
    """Map all pieces into one read-only array of bytes."""
    libc = _libc()
    total = sum(piece.rows for piece in pieces) * row_bytes
    span = -(-max(total, 1) // PAGE) * PAGE
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    base = libc.mmap(None, span, _PROT_NONE, flags, -1, 0)
    if base == _FAILED:
        raise StoreError(f"cannot reserve {span} bytes of address space; check `ulimit -v`.")
    region = (ctypes.c_ubyte * max(total, 1)).from_address(base)
    release = weakref.finalize(region, libc.munmap, base, span)
    release.atexit = False  # other threads may still read; the system unmaps what is left
    at = base
    for piece in pieces:
        size = piece.rows * row_bytes
        if not size:
            continue
        with closing(open_checked(piece)) as descriptor:
            if piece.offset % PAGE == 0:
                flags = _MAP_SHARED | _MAP_FIXED
                got = libc.mmap(at, size, _PROT_READ, flags, descriptor, piece.offset)
                _check_mapped(got, piece)
            else:  # at most a page: copy it
                flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS
                _check_mapped(libc.mmap(at, PAGE, _PROT_READ | _PROT_WRITE, flags, -1, 0), piece)
                ctypes.memmove(at, os.pread(descriptor, size, piece.offset), size)
        at += size
    return np.frombuffer(memoryview(region).toreadonly(), np.uint8)[:total]


def _check_mapped(got: int | None, piece: Piece) -> None:
    if got is None or got == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise StoreError(
            f"{piece.path}: cannot be mapped ({reason}). Gather rows with backend='pread', or "
            "raise the limit of maps (sysctl vm.max_map_count) or of memory (ulimit -v)."
        )


def _map_alone(piece: Piece, size: int) -> Array:
    """Map one piece into a read-only array of bytes."""
    if not size:
        return np.zeros(0, np.uint8)
    start = piece.offset // PAGE * PAGE
    length = piece.offset - start + size
    with closing(open_checked(piece)) as descriptor:
        view = mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=start)
    return np.frombuffer(view, np.uint8)[piece.offset - start :]


def advise(array: Array, rows: npt.NDArray[np.int64]) -> None:
    """Ask the kernel to read rows of a map ahead (``MADV_WILLNEED``); never fails."""
    if sys.platform != "linux" or not array.size:
        return
    libc, base, size = _libc(), array.ctypes.data, array.strides[0]
    for row in rows.tolist():
        start = (base + row * size) // PAGE * PAGE
        libc.madvise(start, base + (row + 1) * size - start, _WILLNEED)
