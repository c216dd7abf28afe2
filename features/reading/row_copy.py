"""Copy rows of arrays as fast as memory allows, with the cast in the same pass."""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]

_PAGE, _AHEAD = 4096, 64
_LARGE_ROW = 4096  # bytes of a row from which torch's set-up pays off
_ALIGNED = 32  # bytes; memmove is fastest when source and target start on a multiple
_FUSED_ROW = 32768  # bytes of a row from which casting row by row beats a gather and a cast
_TORCH_DTYPES = {"<f2": "float16", "<f4": "float32"}


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised array that starts 64 bytes after a page boundary.

    numpy starts large arrays 16 bytes after one. Copies from a memory map, which starts on a page,
    are then several times slower (see ``take_rows``).
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _PAGE + _AHEAD, np.uint8)
    start = -raw.ctypes.data % _PAGE + _AHEAD
    return raw[start : start + size].view(dtype).reshape(shape)


def take_rows(source: Array, rows: Index, out: Array) -> None:
    """Copy rows of ``source`` into ``out``, cast to its dtype.

    numpy's ``take`` is one ``memmove`` per row: the fastest copy where source and target have the
    same alignment (``aligned_empty``), up to twice as slow as torch's copy where not. numpy casts
    float16 slowly in any case. torch is used where it is faster and already imported.

    Args:
        source: (n, ...).   rows: (b,) valid rows.   out: (b, ...) contiguous.
    """
    if not len(rows):
        return
    known = {source.dtype.str, out.dtype.str} <= _TORCH_DTYPES.keys()
    torch = sys.modules.get("torch") if known else None
    same, row_bytes = out.dtype == source.dtype, source[:1].nbytes
    apart = abs(out.ctypes.data - source.ctypes.data) | row_bytes
    if same and (torch is None or row_bytes < _LARGE_ROW or apart % _ALIGNED == 0):
        # mode="raise" would copy through a second buffer; the rows have been checked
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
    # a tensor over a read-only map must never be written to: it does not leave this function
    private = torch.frombuffer(
        (ctypes.c_ubyte * source.nbytes).from_address(source.ctypes.data),
        dtype=getattr(torch, _TORCH_DTYPES[source.dtype.str]),
    ).view(source.shape)
    target = torch.from_numpy(out)
    if same:
        torch.index_select(private, 0, torch.from_numpy(np.ascontiguousarray(rows)), out=target)
        return
    # a single call for all rows: a call per row takes a microsecond longer than its copy
    torch._foreach_copy_(target.unbind(), [private[row] for row in rows.tolist()])


def copy_row(source: Array, out: Array) -> None:
    """Copy one row with a cast, by torch where it is already imported."""
    torch = sys.modules.get("torch")
    if torch is None or not {source.dtype.str, out.dtype.str} <= _TORCH_DTYPES.keys():
        out[...] = source
    else:
        torch.from_numpy(out).copy_(torch.from_numpy(source))


def first_overflow(values: Array) -> int | None:
    """Return the first row of a float16 array with a value that is not finite, None if none has.

    Compares bit patterns: numpy's ``isfinite`` takes several times as long as the copy before it.
    """
    bits = values.view(np.int16)  # infinity is 0x7C00 and, negative, 0xFC00; NaN are larger
    if not bits.size or (int(bits.max()) < 0x7C00 and int(bits.view(np.uint16).max()) < 0xFC00):
        return None
    return next(at for at, row in enumerate(values) if not np.isfinite(row).all())
