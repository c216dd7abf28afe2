"""Ctrl-C while modules are loaded: the process ends without the stack trace of an import."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["end_at_once", "held_back"]


@contextmanager
def end_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process like SIGTERM, unless someone else handles or ignores it."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or not _in_main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Deliver Ctrl-C after the block; processes that are started in it never get one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
