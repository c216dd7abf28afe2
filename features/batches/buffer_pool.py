"""Reuse the memory of batches: fresh pages for every batch cost more than the copy itself."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.reading import aligned_empty, fork_safe_lock

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]


class BufferPool:
    """Arrays whose memory is reused once the last tensor over it is gone.

    A buffer is never overwritten while a tensor shares it. A consumer that keeps batches only makes
    the pool grow; in a training loop it settles at the few batches in flight.

    Args:
        pinned: use page-locked memory, for fast copies to CUDA.
    """

    def __init__(self, *, pinned: bool = False):
        self.pinned = pinned
        self._lock = fork_safe_lock(self)
        self._slots: list[tuple[Array, weakref.ref[Array]]] = []

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an uninitialised array; once it and all tensors over it are gone, it is reused."""
        dtype = np.dtype(dtype)
        need = max(math.prod(shape) * dtype.itemsize, 1)
        with self._lock:
            free = [at for at, (_, lease) in enumerate(self._slots) if lease() is None]
            fitting = [at for at in free if self._slots[at][0].nbytes >= need]
            if fitting:
                at = min(fitting, key=lambda slot: self._slots[slot][0].nbytes)
                memory = self._slots[at][0]
            else:
                for old in free[::-1]:  # too small for the batches of now
                    del self._slots[old]
                memory, at = self._allocate(need), len(self._slots)
            view = memory[:need] if math.prod(shape) else memory[:0]
            array = view.view(dtype).reshape(shape)
            lease = weakref.ref(array)
            self._slots[at : at + 1] = [(memory, lease)]
        return array

    def _allocate(self, size: int) -> Array:
        if not self.pinned:
            return aligned_empty((size,), np.uint8)
        import torch  # slow to load

        pinned: Tensor = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        memory: Array = pinned.numpy()
        return memory

    @property
    def nbytes(self) -> int:
        """Size of the pool's memory in bytes."""
        return sum(memory.nbytes for memory, _ in self._slots)
