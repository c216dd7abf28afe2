"""glibc keeps freed memory, and only where there is one."""

import ctypes
import os
import subprocess
import sys

import pytest

from features import allocator

PROGRAM = """
import resource, sys
from features.allocator import keep_freed_memory
import numpy as np
import ctypes
ctypes.CDLL(None).mallopt(-1, 65536)  # what Dask does to its workers
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 21)
before = faults()
for _ in range(20):
    np.ones(1 << 21)  # 16 MB
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")
def test_memory_is_not_mapped_again_for_every_array():
    found = {}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    env["NUMPY_MADVISE_HUGEPAGE"] = "0"  # with huge pages there are few faults to count
    for mode in ("default", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        found[mode] = int(done.stdout)
    assert found["default"] > 1000
    assert found["keep"] < found["default"] / 10


def test_users_settings_and_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    assert not allocator.keep_freed_memory.__wrapped__()
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory.__wrapped__()
