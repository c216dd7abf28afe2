"""Locks that stay usable in a forked process.

A fork copies a lock that another thread holds, but not that thread, so nobody would release it.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from typing import Any

_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def fork_safe_lock(owner: object) -> threading.RLock:
    """Return a lock for ``owner._lock``; a forked process replaces it there by an open one."""
    _owners.add(owner)
    return threading.RLock()


def _renew() -> None:
    for owner in _owners:
        owner._lock = threading.RLock()
        for value in (value for kind in type(owner).__mro__ for value in vars(kind).values()):
            # Python 3.11 computes these under a lock, too: one for all instances
            if isinstance(value, functools.cached_property) and hasattr(value, "lock"):
                value.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
