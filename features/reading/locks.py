"""Locks of objects that a forked process inherits.

A thread that holds a lock does not come along into a forked process, where nobody would ever
release it.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from typing import Any

__all__ = ["lock_of"]

_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def lock_of(owner: object) -> threading.RLock:
    """Return the lock for ``owner._lock``; forked processes get another one there, open."""
    _owners.add(owner)
    return threading.RLock()


def _renew() -> None:
    for owner in _owners:
        owner._lock = threading.RLock()
        for value in vars(type(owner)).values():
            # Python 3.11 computes these under a lock, too: one for all instances
            if isinstance(value, functools.cached_property) and hasattr(value, "lock"):
                value.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
