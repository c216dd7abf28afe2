"""The launcher: it ends whole process groups, and its errors quote the command."""

import os
import signal
import subprocess
import sys
import time

import pytest

from features.errors import StageError
from workflows.launcher import run_in_group

CHILD_OF_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("PIDS", os.getpid(), child.pid, flush=True)
{then}
"""


def alive(pid):
    """Return True while the process runs; a zombie does not count."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def pids_in(text):
    line = next(line for line in text.splitlines() if line.startswith("PIDS"))
    return [int(word) for word in line.split()[1:]]


def test_output_is_shown_and_success_returns(capfd):
    run_in_group([sys.executable, "-c", "print('step 1')"], environment={"X": "1"})
    assert "step 1" in capfd.readouterr().out


def test_failure_quotes_the_error_line_and_the_code():
    program = "import sys; print('error: NaN loss at step 7'); print('bye'); sys.exit(3)"
    with pytest.raises(StageError, match="exited with code 3: NaN loss at step 7"):
        run_in_group([sys.executable, "-c", program])


def test_children_of_a_failed_command_are_ended(capfd):
    program = CHILD_OF_CHILD.format(then="sys.stdout.close(); os._exit(1)")
    with pytest.raises(StageError):
        run_in_group([sys.executable, "-c", program], grace=2)
    assert gone(pids_in(capfd.readouterr().out))


@pytest.mark.cluster
def test_sigterm_ends_the_whole_group():
    launcher = (
        "import sys; from workflows.launcher import run_in_group;"
        f"run_in_group([sys.executable, '-c', {CHILD_OF_CHILD.format(then='time.sleep(60)')!r}],"
        " grace=5)"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", launcher], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    pids = pids_in(process.stdout.readline())
    assert all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    process.stdout.close()
    assert gone(pids)
