"""Run the shards of a stage with Dask, on a local cluster or a running scheduler.

A stage is one Luigi task: ten thousand tasks, one per shard, would take minutes to schedule, and
each would load its model again. Dask may run a shard twice if it loses a worker, so the functions
that write shards are idempotent and atomic.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.errors import ScenestoreError, StageError, UsageError
from features.plugins import offer_plugins, plugins_in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

__all__ = ["Where", "fan_out", "usable_cores"]

CONNECT_SECONDS = 10.0
RETRIES = 2  # for unexpected errors, such as those of a network file system


@dataclass(frozen=True)
class Where:
    """Where shards run: in ``jobs`` local processes, or on the scheduler at ``address``."""

    jobs: int = 1
    address: str = ""


@dataclass(frozen=True)
class _Failure:
    """A user's error, returned as a value so that Dask neither retries nor wraps it."""

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
    """Run ``function(job, number)`` for every number; yield each number and result when ready.

    Workers import the modules that registered plug-ins in this process.

    Args:
        function: a module-level function, idempotent and atomic.
        job: its first argument, small and picklable; models are loaded on the worker.
        numbers: shard numbers.
        where: local processes, or the address of a scheduler.
        describe: what a shard holds, for the error if it kills its workers.
        tracking: called with the address of the dashboard.

    Raises:
        ScenestoreError: the first user's error of a shard; the other shards are cancelled.
        StageError: a shard killed several workers, or the scheduler cannot be reached.
    """
    if not numbers:
        return
    # loads dask
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
            plugins=plugins_in_use(),
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
                advice = "Check memory and these images: one may crash its decoder."
                raise StageError(f"{message}. {advice} Finished shards are kept.") from error
            if isinstance(result, _Failure):
                client.cancel(futures)
                raise result.error
            future.release()
            yield number, result


def _guarded(
    function: Callable[[Any, int], Any], job: object, number: int, plugins: tuple[str, ...]
) -> object:
    try:
        offer_plugins(plugins)
        return function(job, number)
    except ScenestoreError as error:
        return _Failure(error)


@contextlib.contextmanager
def _client(where: Where, n_shards: int) -> Iterator[Client]:
    """Connect to the scheduler, or start a local cluster and stop it afterwards."""
    # loads dask
    from distributed import Client, LocalCluster

    if where.address:
        try:
            client = Client(where.address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            message = f"no Dask scheduler answers at {where.address} ({error})"
            raise StageError(f"{message}. Start one, or omit --scheduler-address.") from error
        with client:
            if not client.scheduler_info(n_workers=-1)["workers"]:
                client.wait_for_workers(1, timeout=60)
            yield client
        return
    if where.jobs < 1:
        raise UsageError(f"--jobs {where.jobs}: must be at least 1.")
    cluster = LocalCluster(
        n_workers=min(where.jobs, n_shards),
        threads_per_worker=1,  # decoding and parsing hold the GIL
        processes=True,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
        silence_logs=50,
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client
