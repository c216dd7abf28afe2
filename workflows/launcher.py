"""Run a training command in its own process group, so that nothing outlives the Luigi task.

Luigi's own launcher kills only the process it started: under torchrun the ranks stay behind and
hold the GPU's memory. Here the whole group gets SIGTERM (time to save a checkpoint), then SIGKILL.
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

__all__ = ["run_in_group"]

GRACE_SECONDS = 60.0  # for a checkpoint to be written after SIGTERM


def run_in_group(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    grace: float = GRACE_SECONDS,
) -> None:
    """Run ``command``, show its output, and end its whole process group whatever happens.

    Args:
        command: program and arguments.
        environment: variables to add.
        grace: seconds between SIGTERM and SIGKILL when this process is told to stop.

    Raises: StageError: the command left with a code other than 0; its last line is quoted.
    """
    process = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    # A thread reads, because a grandchild may hold the pipe open long after the command has ended.
    last: deque[str] = deque(maxlen=5)
    reader = threading.Thread(target=_show, args=(process, last), daemon=True)
    reader.start()
    with _stop_on_sigterm(process, grace):
        code = process.wait()
    reader.join(grace)
    if code != 0:
        said = next((line for line in reversed(last) if line.startswith("error:")), None)
        reason = (said or (last[-1] if last else "it said nothing")).removeprefix("error: ")
        raise StageError(f"{' '.join(command[:4])} ... left with code {code}: {reason}")


def _show(process: subprocess.Popen[str], last: deque[str]) -> None:
    """Copy the command's output line by line and remember the last lines for an error."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        if line.strip():
            last.append(line.strip())


class _Told(BaseException):
    """SIGTERM has arrived."""


@contextlib.contextmanager
def _stop_on_sigterm(process: subprocess.Popen[str], grace: float) -> Iterator[None]:
    """End the group on the way out; after SIGTERM pass the signal on to this process itself.

    Luigi would count an exception as the failure of one task and go on with the next. Only the
    main thread may set handlers; elsewhere a signal does what it did before.
    """

    def tell(number: int, frame: FrameType | None) -> None:
        raise _Told

    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, tell) if main else None
    told = False
    try:
        yield
    except _Told:
        told = True
    finally:
        if main:
            signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
        end_group(process, grace)
        if told:
            os.kill(os.getpid(), signal.SIGTERM)


def end_group(process: subprocess.Popen[str], grace: float) -> None:
    """Send SIGTERM to the process group, wait, then SIGKILL what is left of it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # everything in the group has ended
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
