"""Run a command in a process group of its own and end the whole group with the Luigi task.

Luigi's own launcher kills only the process that it started; the ranks of torchrun would stay and
hold GPU memory. Here the group gets SIGTERM, time to save a checkpoint, then SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from features.errors import StageError
from features.plugins import inherited

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

__all__ = ["run_in_group"]

GRACE_SECONDS = 60.0  # time to save a checkpoint after SIGTERM


def run_in_group(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    grace: float = GRACE_SECONDS,
) -> None:
    """Run a command, copy its output, and end its process group in any case.

    The command finds the plug-ins that are registered in this process.

    Args:
        command: program and arguments.
        environment: environment variables to add.
        grace: seconds between SIGTERM and SIGKILL.

    Raises: StageError: the exit code is not 0; the message quotes the command's error line.
    """
    process = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **inherited(), **(environment or {})},
        start_new_session=True,
    )
    # read in a thread: a grandchild may keep the pipe open after the command has ended
    last: deque[str] = deque(maxlen=5)
    reader = threading.Thread(target=_copy_output, args=(process, last), daemon=True)
    reader.start()
    with _stop_on_sigterm(process, grace):
        code = process.wait()
    reader.join(grace)
    if code != 0:
        errors = [line for line in last if line.startswith("error:")]
        reason = ([*last, *errors] or ["no output"])[-1].removeprefix("error: ")
        raise StageError(f"{' '.join(command[:4])} ... exited with code {code}: {reason}")


def _copy_output(process: subprocess.Popen[str], last: deque[str]) -> None:
    """Copy the output of the command line by line and keep the last lines."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            sys.stdout.write(line)
            sys.stdout.flush()
            if line.strip():
                last.append(line.strip())


class _Terminated(BaseException):
    """This process has received SIGTERM."""


@contextlib.contextmanager
def _stop_on_sigterm(process: subprocess.Popen[str], grace: float) -> Iterator[None]:
    """End the group on exit; after SIGTERM, send this process the same signal again.

    An exception alone would not do: Luigi would count one task as failed and run the next. Python
    allows handlers in the main thread only; in other threads the signal is handled as before.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, terminate) if main else None
    terminated = False
    try:
        yield
    except _Terminated:
        terminated = True
    finally:
        if main:
            signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
        end_group(process, grace)
        if terminated:
            os.kill(os.getpid(), signal.SIGTERM)


def end_group(process: subprocess.Popen[str], grace: float) -> None:
    """Send SIGTERM to a process group, wait, then send SIGKILL to the rest of it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # every process of the group has ended
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
