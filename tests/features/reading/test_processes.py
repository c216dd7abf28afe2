"""Programs that end or fork while threads read a store, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

HUNG = 120  # seconds after which a process counts as hung


def run(code, *words):
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HUNG)


@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", -signal.SIGINT)],
)
def test_a_program_may_end_in_the_middle_of_an_epoch(tiny_store, end, status):
    store = tiny_store(images=64, dim=512)
    code = f"""
import atexit, sys, threading

@atexit.register
def last():  # registered first, called last
    print([thread.name for thread in threading.enumerate()])
    print(column.sum(dtype="f8"))

from features import open_store
store = open_store(sys.argv[1], backend="mmap")
column = store.column("object_features")
batches = iter(store.loader("train", batch_size=2))
next(batches)
{end}
"""
    done = run(code, store.path)
    assert done.returncode == status, done.stderr
    total = store.column("object_features").sum(dtype=np.float64)
    assert done.stdout.splitlines() == ["['MainThread']", str(total)]


def test_a_read_that_never_returns_does_not_keep_a_program_from_ending():
    code = """
import threading
from features.batches import prefetch

def read(step):
    if step:
        inside.set()
        never.wait()
    return step

prefetch.PATIENCE = 0.1
inside, never = threading.Event(), threading.Event()
batches = prefetch.prefetched(read, range(3), 1)
print(next(batches))
inside.wait()
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.parametrize(
    ("call", "job"),
    [
        ("features.reading.reader.read_group", "store.group('regions')"),
        ("features.reading.group_reader.open_checked", "store.coded('labels')"),
        ("features.reading.group_reader.open_checked", "store.splits"),
        ("features.reading.row_readers.open_checked", "store.gather('object_features', [0])"),
        ("features.batches.buffer_pool.aligned_empty", "pool.take((2, 3), 'f4')"),
    ],
)
def test_a_fork_while_another_thread_reads_leaves_no_lock_held(tiny_store, call, job):
    """The thread is inside ``call``, holding a lock, when the process forks."""
    code = """
import importlib, os, signal, sys, threading
from features import open_store
from features.batches.buffer_pool import BufferPool

store, pool = open_store(sys.argv[1], backend="pread"), BufferPool()
module, _, name = sys.argv[2].rpartition(".")
module = importlib.import_module(module)
plain, inside, go = getattr(module, name), threading.Event(), threading.Event()

def waits(*words):
    inside.set()
    go.wait()
    return plain(*words)

def job():
    eval(sys.argv[3])

setattr(module, name, waits)
thread = threading.Thread(target=job)
thread.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    setattr(module, name, plain)
    job()
    os._exit(0)
go.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = run(code, tiny_store().path, call, job)
    assert done.stdout == "0\n", done.stderr


def test_a_loop_over_batches_stays_in_the_process_that_started_it(tiny_store):
    code = """
import os, signal, sys, torch
from features import open_store
from features.errors import UsageError

torch.set_num_threads(1)  # a fork does not copy those of a pool either
loader = open_store(sys.argv[1]).loader("train", batch_size=2)
batches = iter(loader)
next(batches)
child = os.fork()
if not child:
    signal.alarm(60)
    try:
        next(batches)
    except UsageError as error:
        print(error, len(list(loader)), flush=True)
        os._exit(0)
    os._exit(1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, len(list(batches)))
"""
    store = tiny_store()
    done = run(code, store.path)
    steps = len(store.loader("train", batch_size=2))
    told, ours = done.stdout.splitlines()
    assert "Start the loop in the process that uses the batches." in told
    assert told.endswith(f" {steps}")
    assert ours == f"0 {steps - 1}"
