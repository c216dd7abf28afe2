"""Batches made ahead by a thread, which ends before its loop, its process or the interpreter."""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from features.errors import UsageError

__all__ = ["prefetched"]

T = TypeVar("T")

_PATIENCE = 60.0  # seconds for the batch that a thread is in: more than a disk that works takes


def prefetched(make: Callable[[int], T], steps: range, ahead: int) -> Iterator[T]:
    """Yield ``make(step)`` for every step, made by one thread up to ``ahead`` steps early.

    An error of the thread is raised where its batch would have come; leaving the loop early stops
    the thread, and so does the end of the program.

    Raises: UsageError: the process was forked since the first step; the thread is not there.
    """
    if not ahead:
        yield from map(make, steps)
        return
    maker = _Maker(make, steps, ahead)
    maker.start()
    try:
        for _ in steps:
            batch = maker.take()
            yield batch
            del batch  # the memory goes back to the pool while the next one is awaited
    finally:
        maker.end()


class _Maker(threading.Thread):
    """Makes batches for the loop that takes them.

    A daemon: a read that never returns, of a disk that has gone, must not keep the program from
    ending. But a thread that comes back from torch into an interpreter that is closing down aborts
    the process, so ``_end_all`` waits for it first. A destructor may end it, in any thread, its own
    too: ``SimpleQueue`` allows that.
    """

    def __init__(self, make: Callable[[int], Any], steps: range, ahead: int):
        super().__init__(name="batches", daemon=True)
        self.make, self.steps, self.pid = make, steps, os.getpid()
        self.ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.tickets: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.ended = False
        for _ in range(ahead):
            self.tickets.put(None)

    def run(self) -> None:
        """Make a batch for every ticket."""
        for step in self.steps:
            self.tickets.get()
            if self.ended:
                return
            try:
                self.ready.put((self.make(step), None))
            except BaseException as error:  # the consumer raises it
                self.ready.put((None, error))
                return

    def take(self) -> Any:
        """Return the next batch, and let one more be made.

        Raises: UsageError: this process was forked from the thread's.
        """
        if self.pid != os.getpid():
            raise UsageError(
                "the process was forked after this loop over batches began, and the thread that "
                "makes them stayed behind. Begin the loop in the process that takes the batches."
            )
        batch, error = self.ready.get()
        self.tickets.put(None)
        if error is not None:
            raise error
        return batch

    def end(self) -> None:
        """Stop, and wait for the batch in the making."""
        self.ended = True
        self.tickets.put(None)
        # once the interpreter is closing down no thread comes to its end, and join raises (3.14)
        if self is not threading.current_thread() and not sys.is_finalizing():
            self.join(_PATIENCE)


@atexit.register
def _end_all() -> None:
    for thread in threading.enumerate():  # in a forked process: none of its parent's
        if isinstance(thread, _Maker):
            thread.end()
