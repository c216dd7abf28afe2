"""Run the shards of a stage in local processes, or with Dask on a running scheduler.

A stage is one Luigi task: ten thousand tasks, one per shard, would take minutes to schedule, and
each would load its model again. A shard may run twice if a worker is lost, so the functions that
write shards are idempotent and atomic.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import queue
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from features.allocator import keep_freed_memory
from features.errors import ScenestoreError, StageError, UnreadableInput, UsageError
from features.plugins import offer_plugins, plugins_in_use
from workflows.processes import Died, Processes

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Fan", "Where", "check_scheduler", "fan_out", "usable_cores"]

CONNECT_SECONDS = 10.0
WORKER_SECONDS = 60.0  # until a scheduler without workers is given up
RETRIES = 2  # for errors that may pass, such as those of a network file system
PAUSE_SECONDS = 0.5  # before a retry
DEATHS = 5  # workers lost with the same shard; pipeline.attempts names the item before
COUNT_SECONDS = 2.0
AHEAD = 2  # shards submitted per thread of a Dask worker
_LIBRARIES = ("numpy", "pillow", "onnxruntime", "spacy", "stanza")  # that decide contents
_PACKAGES = ("features", "pipeline")


@dataclass(frozen=True)
class Where:
    """Where shards run: in ``jobs`` local processes, or on the scheduler at ``address``.

    ``memory`` limits the bytes of data of a local process; 0: no limit.
    """

    jobs: int = 1
    address: str = ""
    memory: int = 0


@dataclass(frozen=True)
class _Failure:
    """An error, returned as a value so that nothing retries or wraps it.

    Attributes:
        error: the error.   passing: True if another attempt may succeed.
    """

    error: ScenestoreError
    passing: bool = False


class _Pool(Protocol):
    """Workers: local processes, or those of a scheduler."""

    @property
    def idle(self) -> int:
        """How many more calls can be submitted."""
        ...

    def submit(self, number: int, call: Callable[[], Any]) -> None:
        """Submit a call for a shard."""
        ...

    def next(self) -> Iterator[tuple[int, Any]]:
        """Wait until something happens; yield shards and outcomes."""
        ...


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fan_out(
    function: Callable[[Any, int], Any],
    job: object,
    numbers: Sequence[int],
    where: Where,
    *,
    describe: Callable[[int], str] = str,
    tracking: Callable[[str], None] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run ``function(job, number)`` for every number; see ``Fan``."""
    with Fan(function, lambda _: job, where, describe=describe, tracking=tracking) as fan:
        fan.add(numbers)
        yield from fan


class Fan:
    """Runs a function for shards; iterating yields each number and result when ready.

    Workers import the modules that registered plug-ins in this process.

    Shards that workers were lost with, and those with errors that may pass, are tried again.

    Args:
        function: a module-level function, idempotent and atomic.
        job_of: shard number -> first argument of the function, small and picklable.
        where: local processes, or the address of a scheduler.
        describe: what a shard holds, for the error if it kills its workers.
        tracking: called with the address of the dashboard, if there is one.

    Raises (while iterating):
        ScenestoreError: the first error of a shard; the other shards are cancelled.
        StageError: a shard killed several workers, or the scheduler cannot be reached.
    """

    def __init__(
        self,
        function: Callable[[Any, int], Any],
        job_of: Callable[[int], object],
        where: Where,
        *,
        describe: Callable[[int], str] = str,
        tracking: Callable[[str], None] | None = None,
    ) -> None:
        if where.jobs < 1 and not where.address:
            raise UsageError(f"--jobs {where.jobs}: must be at least 1.")
        self.function, self.job_of, self.where = function, job_of, where
        self.describe, self.tracking = describe, tracking
        self._waiting: deque[int] = deque()
        self._running: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._retries: Counter[int] = Counter()
        self._stack = contextlib.ExitStack()
        self._pool: _Pool | None = None

    def __enter__(self) -> Fan:
        """Return the fan; workers are started when there is something to do."""
        return self

    def __exit__(self, *error: Any) -> None:
        """End the workers, or cancel what runs on the scheduler."""
        self._stack.__exit__(*error)

    def add(self, numbers: Sequence[int]) -> None:
        """Add shards to run; also while iterating."""
        self._waiting.extend(numbers)
        for number in numbers:
            self._deaths.pop(number, None)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield each shard number and the result of its function."""
        while self._waiting or self._running:
            pool = self._open()
            while self._waiting and pool.idle:
                number = self._waiting.popleft()
                self._running.add(number)
                pool.submit(number, self._call(number))
            for number, outcome in pool.next():
                self._running.discard(number)
                if isinstance(outcome, Died):
                    self._again(number, outcome)
                elif isinstance(outcome, _Failure):
                    self._retry(number, outcome)
                else:
                    yield number, outcome

    def _call(self, number: int) -> Callable[[], Any]:
        expected = versions() if self.where.address else {}
        return functools.partial(
            _guarded, self.function, self.job_of(number), number, plugins_in_use(), expected
        )

    def _open(self) -> _Pool:
        if self._pool is None:
            if self.where.address:
                pool: Any = _DaskPool(self.where.address, self.tracking)
            else:
                pool = Processes(min(self.where.jobs, len(self._waiting)), self.where.memory)
            self._pool = self._stack.enter_context(pool)
        return self._pool

    def _again(self, number: int, outcome: Died) -> None:
        self._deaths[number] += 1
        if self._deaths[number] >= DEATHS:
            raise StageError(
                f"shard {number} ({self.describe(number)}) killed every worker that tried it "
                f"({outcome.reason}). Check memory and these images: one may crash its decoder. "
                "Finished shards are kept."
            )
        self._waiting.appendleft(number)

    def _retry(self, number: int, outcome: _Failure) -> None:
        self._retries[number] += 1
        if not outcome.passing or self._retries[number] > RETRIES:
            raise outcome.error
        time.sleep(PAUSE_SECONDS)
        self._waiting.append(number)


def _guarded(
    function: Callable[[Any, int], Any],
    job: object,
    number: int,
    plugins: tuple[str, ...],
    expected: Mapping[str, str],
) -> object:
    """Run a function on a worker; return its result, or its error as a value."""
    place = f" Worker: {_worker_name()}." if expected else ""
    try:
        _check_versions(expected)
        offer_plugins(plugins)
        keep_freed_memory()
        return function(job, number)
    except UnreadableInput as error:
        return _Failure(_placed(error, place), passing=True)
    except ScenestoreError as error:
        return _Failure(_placed(error, place))
    except Exception as error:
        trace, where = error.__traceback__, ""
        while trace is not None:
            where = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
            trace = trace.tb_next
        message = f"shard {number}: {type(error).__name__}: {error}{where}. Finished shards are"
        return _Failure(StageError(f"{message} kept; run the build again.{place}"), passing=True)


def _placed(error: ScenestoreError, place: str) -> ScenestoreError:
    if place:
        error.args = (f"{error}{place}",)
    error.__cause__ = error.__context__ = None  # they may not be picklable
    return error


def _worker_name() -> str:
    from distributed import get_worker  # loads dask

    with contextlib.suppress(ValueError):
        return f"{get_worker().address} on {socket.gethostname()}"
    return socket.gethostname()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that decide what a shard contains: ours, Python's, the libraries'."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        root = Path(str(import_module(package).__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".pyi"):
                digest.update(f"{path.relative_to(root)}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    found = {"scenestore": digest.hexdigest()[:12], "python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _check_versions(expected: Mapping[str, str]) -> None:
    """Check that a worker would compute what the planning process would.

    Raises: StageError: a version differs.
    """
    here = versions() if expected else {}
    differing = [
        f"{name} {here.get(name, 'none')} there, {expected.get(name, 'none')} here"
        for name in sorted({*expected, *here})
        if expected.get(name) != here.get(name)
    ]
    if differing:
        raise StageError(
            "a worker has other versions than the process that planned the build: "
            f"{'; '.join(differing)}. Install the same environment on every worker."
        )


def check_scheduler(address: str) -> None:
    """Check that a scheduler with workers answers at an address, before several stages try it.

    Raises: StageError: none does. UsageError: not an address.
    """
    with _DaskPool(address, None):
        pass


def _check_listening(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UsageError(f"--scheduler-address {address!r}: pass tcp://HOST:PORT or tls://...")
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            if parts.scheme == "tcp" and not connection.recv(1):  # Dask speaks first
                raise OSError("the connection was closed")
    except OSError as error:
        raise _no_scheduler(address, error) from error


def _silence() -> None:
    """Keep Dask from printing the traces of lost connections, which we report ourselves."""
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _within(seconds: float, make: Callable[[], Any]) -> Any:
    """Return what a function returns, if it does within a time that it does not keep itself.

    Raises: TimeoutError: it does not. Whatever the function raises.
    """
    made: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            made.put((make(), None))
        except Exception as error:
            made.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = made.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if error is not None:
        raise error
    return result


def _no_scheduler(address: str, error: object) -> StageError:
    message = f"no Dask scheduler answers at {address} ({error})"
    return StageError(f"{message}. Start one, or omit --scheduler-address.")


class _DaskPool:
    """The workers of a running Dask scheduler."""

    def __init__(self, address: str, tracking: Callable[[str], None] | None) -> None:
        self.address, self.tracking = address, tracking
        self._futures: dict[str, int] = {}
        self._capacity, self._counted = 1, -1.0

    def __enter__(self) -> _DaskPool:
        _check_listening(self.address)  # takes less time than Dask's retries
        from distributed import Client, as_completed  # loads dask

        _silence()
        try:
            self.client: Client = _within(
                3 * CONNECT_SECONDS,
                lambda: Client(self.address, timeout=CONNECT_SECONDS, set_as_default=False),
            )
        except Exception as error:  # Dask passes on those of TLS and of its comms
            raise _no_scheduler(self.address, str(error).split("\n")[0]) from error
        try:
            if self.tracking is not None:
                self.tracking(self.client.dashboard_link)
            self.client.wait_for_workers(1, timeout=WORKER_SECONDS)
            self._completed: Any = as_completed(loop=self.client.loop)
        except Exception as error:
            self.client.close()
            raise StageError(
                f"the Dask scheduler at {self.address} has no workers after {WORKER_SECONDS:.0f} "
                "s. Start some: dask worker ADDRESS."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        from distributed import Future  # loads dask

        with contextlib.suppress(Exception):  # the scheduler may have gone
            self.client.cancel([Future(key, self.client) for key in self._futures])
        with contextlib.suppress(Exception):
            self.client.close(timeout=CONNECT_SECONDS)

    @property
    def idle(self) -> int:
        return max(0, self._capacity - len(self._futures))

    def _count(self) -> None:
        """Count the threads of the workers, at most once in ``COUNT_SECONDS``."""
        if time.monotonic() - self._counted > COUNT_SECONDS:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
            self._capacity = max(1, AHEAD * sum(worker["nthreads"] for worker in workers))
            self._counted = time.monotonic()

    def submit(self, number: int, call: Callable[[], Any]) -> None:
        with self._connection():
            self._count()
            key = f"shard-{number}-{os.urandom(6).hex()}"
            future = self.client.submit(call, pure=False, key=key)
            self._futures[key] = number
            self._completed.add(future)

    def next(self) -> Iterator[tuple[int, Any]]:
        from distributed.scheduler import KilledWorker  # loads dask

        with self._connection():
            done = self._completed.next_batch()
            self._count()
        for future in done:
            number = self._futures.pop(str(future.key))
            try:
                with self._connection():
                    outcome = future.result()
            except KilledWorker as error:
                outcome = Died(f"{error.last_worker.address} was the last")
            except StageError:
                raise
            except Exception as error:  # before our function was reached
                outcome = _Failure(
                    StageError(
                        f"a Dask worker cannot run shard {number} ({type(error).__name__}: "
                        f"{error}). Install the same environment on every worker."
                    )
                )
            future.release()
            yield number, outcome

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """Turn the errors of a lost scheduler into a StageError."""
        from concurrent.futures import CancelledError

        from distributed.client import FutureCancelledError
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        try:
            yield
        except KilledWorker:
            raise
        except (FutureCancelledError, CommClosedError, CancelledError, OSError) as error:
            raise StageError(
                f"the connection to the Dask scheduler at {self.address} was lost "
                f"({type(error).__name__}). Finished shards are kept; run the build again."
            ) from error
