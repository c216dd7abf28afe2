"""Make batches ahead of time in a thread that ends with its loop and before the interpreter."""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from features.errors import UsageError

T = TypeVar("T")

PATIENCE = 60.0  # seconds to wait for the current batch: more than a working disk takes


def prefetched(make: Callable[[int], T], steps: range, ahead: int) -> Iterator[T]:
    """Yield ``make(step)`` for every step; a thread makes up to ``ahead`` of them in advance.

    An exception in the thread is raised in place of its batch. Leaving the loop early stops the
    thread, and so does the end of the program.

    Raises: UsageError: the process was forked since the first step; a fork copies no threads.
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
            del batch  # its memory returns to the pool while the next batch is awaited
    finally:
        maker.end()


class _Maker(threading.Thread):
    """Make batches for the loop that takes them.

    A daemon thread: a read that never returns, from a disk that has failed, must not keep the
    program from ending. But a thread that returns from torch into an interpreter that is shutting
    down aborts the process, so ``_end_all`` waits for it first. A destructor may end the thread
    from any thread, its own included; ``SimpleQueue`` allows that.
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
        """Make a batch for each ticket."""
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
        """Return the next batch and allow one more to be made.

        Raises: UsageError: this process was forked after the thread was started.
        """
        if self.pid != os.getpid():
            raise UsageError(
                "the process was forked after this loop over batches began, and the thread that "
                "makes them was not copied. Start the loop in the process that uses the batches."
            )
        batch, error = self.ready.get()
        self.tickets.put(None)
        if error is not None:
            raise error
        return batch

    def end(self) -> None:
        """Stop, and wait for the current batch."""
        self.ended = True
        self.tickets.put(None)
        # while the interpreter shuts down no thread ends, and join raises (3.14)
        if self is not threading.current_thread() and not sys.is_finalizing():
            self.join(PATIENCE)


@atexit.register
def _end_all() -> None:
    for thread in threading.enumerate():  # in a forked process, none of its parent's
        if isinstance(thread, _Maker):
            thread.end()
