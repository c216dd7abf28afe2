"""Shards on Dask: results, errors, killed workers and unreachable schedulers."""

import os

import pytest

from features.errors import InputError, StageError, UsageError
from workflows import cluster
from workflows.cluster import Where, fan_out

pytestmark = pytest.mark.cluster


def square(job, number):
    return job["add"] + number * number


def refuse(job, number):
    with open(f"{job['folder']}/{number}-{os.getpid()}-{os.urandom(4).hex()}", "w"):
        pass
    if number == 1:
        raise InputError("captions.json: images[3] is broken")
    return number


def flaky(job, number):
    path = f"{job['folder']}/{number}"
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        raise OSError("stale file handle")
    return number


def die(job, number):
    os._exit(9)


def test_local_processes_run_every_shard_once():
    found = dict(fan_out(square, {"add": 1}, list(range(7)), Where(jobs=2)))
    assert found == {n: 1 + n * n for n in range(7)}


def test_a_users_error_is_neither_wrapped_nor_retried(tmp_path):
    with pytest.raises(InputError, match="images"):
        list(fan_out(refuse, {"folder": str(tmp_path)}, [0, 1], Where(jobs=1)))
    assert len(list(tmp_path.glob("1-*"))) == 1


def test_other_errors_are_retried(tmp_path):
    found = dict(fan_out(flaky, {"folder": str(tmp_path)}, [0, 1], Where(jobs=1)))
    assert found == {0: 0, 1: 1}


@pytest.mark.slow
def test_a_shard_that_kills_workers_is_named():
    with pytest.raises(StageError, match=r"shard 5 \(images 40 to 47\) killed every worker"):
        list(fan_out(die, {}, [5], Where(jobs=1), describe=lambda n: "images 40 to 47"))


def test_a_missing_scheduler_and_zero_jobs_are_errors(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(StageError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"):
        list(fan_out(square, {}, [1], Where(address="tcp://127.0.0.1:1")))
    with pytest.raises(UsageError, match="--jobs 0"):
        list(fan_out(square, {"add": 0}, [1], Where(jobs=0)))
