"""Fan the shards of one stage out to Dask: a local cluster, or any running scheduler by address.

One Luigi task stands for a stage; Dask owns the shards in it, because ten thousand Luigi tasks
cost minutes of scheduling and each would load its model again. A shard function is idempotent,
atomic and returns a small record, since Dask may run it twice when a worker is lost.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.errors import ScenestoreError, StageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

__all__ = ["Where", "fan_out", "usable_cores"]

CONNECT_SECONDS = 10.0
RETRIES = 2  # of errors that are not ours: a network file system may answer the second time


@dataclass(frozen=True)
class Where:
    """Where shards are computed: ``jobs`` local processes, or the scheduler at ``address``."""

    jobs: int = 1
    address: str = ""


@dataclass(frozen=True)
class _Failure:
    """An expected error, carried home as a value so that Dask neither retries nor wraps it."""

    error: ScenestoreError


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
    """Run ``function(job, number)`` for every number and yield results as they come.

    Args:
        function: module-level function, idempotent and atomic.
        job: everything it needs, small and picklable; models are loaded on the worker.
        numbers: shard numbers to do.
        where: local processes or a scheduler's address.
        describe: what a shard holds, for the error when a worker dies on it.
        tracking: receives the address of the dashboard.

    Raises:
        ScenestoreError: the first expected error of a shard; the others are cancelled.
        StageError: a worker died on a shard again and again, or the scheduler cannot be reached.
    """
    if not numbers:
        return
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    with _client(where, len(numbers)) as client:
        if tracking is not None:
            tracking(client.dashboard_link)
        futures = client.map(
            _guarded,
            [function] * len(numbers),
            [job] * len(numbers),
            numbers,
            pure=False,
            retries=RETRIES,
        )
        number_of = dict(zip((future.key for future in futures), numbers, strict=True))
        for future in as_completed(futures, loop=client.loop):
            number = number_of[future.key]
            try:
                result = future.result()
            except KilledWorker as error:
                client.cancel(futures)
                message = f"shard {number} ({describe(number)}) killed every worker that tried it"
                advice = (
                    "Out of memory, or a picture that crashes the decoder: look at these images."
                )
                raise StageError(f"{message}. {advice} Finished shards are kept.") from error
            if isinstance(result, _Failure):
                client.cancel(futures)
                raise result.error
            future.release()
            yield number, result


def _guarded(function: Callable[[Any, int], Any], job: object, number: int) -> object:
    try:
        return function(job, number)
    except ScenestoreError as error:
        return _Failure(error)


@contextlib.contextmanager
def _client(where: Where, n_shards: int) -> Iterator[Client]:
    """Connect to the scheduler, or start and stop a local cluster of worker processes."""
    from distributed import Client, LocalCluster

    if where.address:
        try:
            client = Client(where.address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            message = f"no Dask scheduler answers at {where.address} ({error})"
            raise StageError(f"{message}. Start one, or leave --scheduler-address out.") from error
        with client:
            if not client.scheduler_info(n_workers=-1)["workers"]:
                client.wait_for_workers(1, timeout=60)
            yield client
        return
    if where.jobs < 1:
        raise UsageError(f"--jobs {where.jobs}: at least 1 process is needed.")
    cluster = LocalCluster(
        n_workers=min(where.jobs, n_shards),
        threads_per_worker=1,  # one process per core: decoding and parsing hold the GIL
        processes=True,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
        silence_logs=50,
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client
