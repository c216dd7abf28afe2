"""Leftovers of writers: what is swept at once, what after a day, what never."""

import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.errors import WriteError
from features.format.files import partial_path, replacing, sweep


def test_a_writer_that_nobody_reaped_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still a zombie
    left = Path(
        str(partial_path(tmp_path / "00000.h5")).replace(f"-{os.getpid()}-", f"-{process.pid}-")
    )
    left.touch()
    assert sweep(tmp_path) == [left]
    process.wait()


def test_sweep_takes_leftovers_of_the_dead_only(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = partial_path(tmp_path / "00000.h5")
    theirs = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    foreign = tmp_path / "00001.h5.elsewhere-1-00000000.partial"
    old = tmp_path / "00002.h5.elsewhere-1-00000000.partial"
    for path in (mine, theirs, foreign, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert sweep(tmp_path) == [theirs, old]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, foreign.name])
    assert sweep(tmp_path / "absent") == []


def test_a_wrong_clock_here_deletes_nothing(tmp_path, monkeypatch):
    """The host that writes a file and the one that sweeps may be days apart."""
    foreign = tmp_path / "00001.h5.elsewhere-1-00000000.partial"
    foreign.touch()
    monkeypatch.setattr(time, "time", lambda: foreign.stat().st_mtime + 3 * 24 * 3600)
    assert sweep(tmp_path) == []
    assert [*tmp_path.iterdir()] == [foreign]


def test_a_leftover_that_does_not_say_its_namespace_waits_a_day(tmp_path):
    """Its number may be that of a process which cannot be seen from here."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())
    left = tmp_path / f"00000.h5.{host}-{dead.pid}-00000000.partial"
    left.touch()
    assert sweep(tmp_path) == []
    os.utime(left, (0, 0))
    assert sweep(tmp_path) == [left]


def test_a_container_of_the_same_host_name_leaves_a_live_file(tmp_path):
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*container, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("this machine starts no PID namespaces")
    mine = partial_path(tmp_path / "00000.h5")
    mine.touch()
    code = "import sys; from pathlib import Path; from features.format.files import sweep; "
    code += "print(sweep(Path(sys.argv[1])))"
    root = Path(__file__).parents[3]
    command = [*container, sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]"
    assert mine.exists()


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)  # as /dev/stdout is one
    for path in (pipe, tmp_path / "link", Path("/dev/null")):
        with pytest.raises(WriteError, match=r"a device or a pipe, not a file"), replacing(path):
            raise AssertionError("nothing should be written")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
