"""Local worker processes that take one shard at a time over a pipe.

There is no port to connect to: a worker is reached through a pair of connected sockets that only
its parent holds. A worker ends when its parent does, however that ended, and a worker that dies is
replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from features.errors import StageError
from workflows.interrupts import held_back

__all__ = ["Died", "Processes"]

WAIT_SECONDS = 60.0  # at a time, for anything to happen
STARTS = 4  # failures to start, in a row, until the stage gives up
END_SECONDS = 5.0  # between SIGTERM and SIGKILL
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Died:
    """The outcome of a task whose worker died: ``reason`` is an exit code or a signal."""

    reason: str


class Processes:
    """Worker processes; each runs one call at a time.

    Args:
        count: number of processes.
        memory: bytes of data that each may allocate, 0 for no limit.
    """

    def __init__(self, count: int, memory: int = 0) -> None:
        self.count, self.memory = count, memory
        self._workers: dict[Connection, SpawnProcess] = {}
        self._tasks: dict[Connection, int] = {}
        self._ready: set[Connection] = set()
        self._failed_starts = 0

    def __enter__(self) -> Processes:
        """Start the processes; they become ready later."""
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        with _without_interrupts():
            for connection in self._workers:
                connection.close()
            busy = [self._workers[connection] for connection in self._tasks]
            for process in busy:
                process.terminate()
            for process in self._workers.values():
                process.join(END_SECONDS)
                if process.exitcode is None:
                    process.kill()
                    process.join()
                process.close()
            self._workers.clear()

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(
            target=_serve, args=(theirs, os.getpid(), self.memory), name="scenestore-worker"
        )
        with _one_thread(), held_back():  # the child would print the trace of an import
            process.start()
        theirs.close()
        self._workers[ours] = process

    @property
    def idle(self) -> int:
        """Number of processes that wait for a task."""
        return len(self._ready) - len(self._tasks)

    def submit(self, number: int, call: Callable[[], Any]) -> None:
        """Give a call to an idle process; the call is pickled."""
        connection = next(c for c in self._ready if c not in self._tasks)
        self._tasks[connection] = number
        # a process that has just died is noticed by next()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send_bytes(pickle.dumps(call))

    def next(self) -> Iterator[tuple[int, Any]]:
        """Wait until something happens; yield the outcomes of finished calls.

        An outcome is what the call returned, or ``Died``.

        Raises: StageError: processes cannot be started.
        """
        for ready in wait(list(self._workers), WAIT_SECONDS):
            assert isinstance(ready, Connection)
            try:
                message = pickle.loads(ready.recv_bytes())
            except (EOFError, OSError):
                yield from self._replace(ready)
                continue
            if ready not in self._ready:
                self._ready.add(ready)
                self._failed_starts = 0
            else:
                yield self._tasks.pop(ready), message

    def _replace(self, connection: Connection) -> Iterator[tuple[int, Any]]:
        """Start a process in the place of one that has died; yield the outcome of its task."""
        process = self._workers.pop(connection)
        connection.close()
        process.join()
        reason = _ending(process.exitcode)
        process.close()
        number = self._tasks.pop(connection, None)
        if connection not in self._ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise StageError(
                    f"{self._failed_starts} worker processes ended while they started (the last "
                    f"one: {reason}). Check the memory and the limits of this machine."
                )
        self._ready.discard(connection)
        self._start()
        if number is not None:
            yield number, Died(reason)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Set one thread a process for numeric libraries, where the user has set nothing."""
    unset = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C for the length of the block, so that no process is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, parent: int, memory: int) -> None:
    """Run calls until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        connection.send_bytes(pickle.dumps(None))
        while True:
            call = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(call()))
