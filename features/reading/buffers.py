"""Batch memory that is used again: fresh pages for every batch cost more than the copy itself."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.reading.locks import lock_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BufferPool", "aligned_empty"]

Array = npt.NDArray[Any]

_PAGE, _AHEAD = 4096, 64


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised array that begins 64 bytes behind a page.

    numpy begins large arrays 16 bytes behind one; copies from a memory map, which begins on a page,
    are then several times slower (see ``features.reading.rows.take_rows``).
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = np.empty(size + _PAGE + _AHEAD, np.uint8)
    start = -raw.ctypes.data % _PAGE + _AHEAD
    return raw[start : start + size].view(kind).reshape(shape)


class BufferPool:
    """Arrays that go back to the pool when the last tensor over them is gone.

    A buffer is never overwritten while anybody holds a tensor that shares it: a consumer that
    keeps batches makes the pool grow, nothing else. In a training loop it settles at the few
    batches in flight.

    Args:
        pinned: page-locked memory, for fast copies to CUDA.
    """

    def __init__(self, *, pinned: bool = False):
        self.pinned = pinned
        self._lock = lock_of(self)
        self._slots: list[tuple[Array, weakref.ref[Array]]] = []

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an uninitialised array; its memory is reused once the array and all tensors over
        it are gone.
        """
        kind = np.dtype(dtype)
        need = max(math.prod(shape) * kind.itemsize, 1)
        with self._lock:
            free = [at for at, (_, lease) in enumerate(self._slots) if lease() is None]
            fitting = [at for at in free if self._slots[at][0].nbytes >= need]
            if fitting:
                at = min(fitting, key=lambda slot: self._slots[slot][0].nbytes)
                memory = self._slots[at][0]
            else:
                for old in free[::-1]:  # too small for today's batches
                    del self._slots[old]
                memory, at = self._allocate(need), len(self._slots)
            view = memory[:need] if math.prod(shape) else memory[:0]
            array = view.view(kind).reshape(shape)
            lease = weakref.ref(array)
            self._slots[at : at + 1] = [(memory, lease)]
        return array

    def _allocate(self, size: int) -> Array:
        if not self.pinned:
            return aligned_empty((size,), np.uint8)
        import torch

        pinned: Tensor = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        memory: Array = pinned.numpy()
        return memory

    @property
    def nbytes(self) -> int:
        """Bytes that the pool owns."""
        return sum(memory.nbytes for memory, _ in self._slots)
