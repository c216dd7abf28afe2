"""Let the C library keep freed memory, for programs that allocate large arrays again and again."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

__all__ = ["keep_freed_memory"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more
_KEPT = 512 << 20


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Tell glibc to keep up to 512 MB of freed memory; return False where there is no glibc.

    By default an array of more than 128 kB to 32 MB (the limit adapts) is mapped from the kernel
    and unmapped when freed, so its pages are zeroed again for every batch or image. Dask lowers the
    limits of its workers even further. Settings of the user in ``GLIBC_TUNABLES`` are respected.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (missing in other C libraries)
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    done &= mallopt(_M_TRIM_THRESHOLD, _KEPT)
    done &= mallopt(_M_TOP_PAD, 16 << 20)
    return bool(done)
