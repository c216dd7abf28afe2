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
    from collections.abc import Mapping, Sequence
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
    previous = _leave_on_sigterm()
    last: deque[str] = deque(maxlen=5)
    # A thread reads, because a grandchild may hold the pipe open long after the command has ended.
    reader = threading.Thread(target=_show, args=(process, last), daemon=True)
    reader.start()
    try:
        code = process.wait()
    finally:
        end_group(process, grace)
        reader.join(grace)
        for number, handler in previous.items():
            signal.signal(number, handler)
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


def _leave_on_sigterm() -> dict[int, signal.Handlers | int | None]:
    """Turn SIGTERM into SystemExit, so that the group is ended on the way out.

    Only the main thread may set handlers; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    return {signal.SIGTERM: signal.signal(signal.SIGTERM, leave)}  # type: ignore[dict-item]


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
