"""Which item a process was working on when it died or ran out of time.

A process that segfaults or hangs in native code cannot report anything. So an attempt at a shard
writes the current item into a file beside the shard before it starts on it. If the process dies,
the file stays, and the next attempt knows the item. A time limit is kept by ``faulthandler``, which
needs no help of the interpreter: it writes into the same file and ends the process.

One death proves nothing, since processes are killed for other reasons too. An item is suspect after
``DEATHS`` deaths, or after ``TIMEOUTS`` of them at the time limit.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from features.format import partial_path, writer_alive

__all__ = ["DEATHS", "TIMEOUTS", "Attempt"]

DEATHS = 3
TIMEOUTS = 2
_LENGTH = 1024  # bytes for the name of the item, before what faulthandler writes


class Attempt:
    """One attempt of this process at a shard.

    Args:
        shard: file of the shard, present or not.
        limit: seconds for each item; 0: no limit.

    Attributes:
        suspects: item -> what it did to the processes of earlier attempts.
    """

    _active = threading.Lock()  # faulthandler has one timer and one file a process

    def __init__(self, shard: Path, limit: float = 0) -> None:
        self.shard, self.limit = shard, limit
        self.suspects = self._suspects()
        self._file = -1

    def __enter__(self) -> Attempt:
        """Create the file of this attempt."""
        self._active.acquire()
        self.shard.parent.mkdir(parents=True, exist_ok=True)
        self.path = partial_path(self.shard.with_suffix(".attempt"))
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        self._was_enabled = faulthandler.is_enabled()
        faulthandler.enable(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the files of this and earlier attempts: this process has lived."""
        faulthandler.disable()
        if self._was_enabled:
            with contextlib.suppress(ValueError, OSError):  # no usable standard error
                faulthandler.enable()
        os.close(self._file)
        for path in (self.path, *self._dead()):
            path.unlink(missing_ok=True)
        self._active.release()

    @contextlib.contextmanager
    def item(self, name: str) -> Iterator[None]:
        """Note that this process works on an item, and end it if that takes too long."""
        os.ftruncate(self._file, 0)
        os.write(self._file, name.encode("utf-8", "replace")[: _LENGTH - 1].ljust(_LENGTH, b"\n"))
        if self.limit > 0:
            faulthandler.dump_traceback_later(self.limit, exit=True, file=self._file)
        try:
            yield
        finally:
            if self.limit > 0:
                faulthandler.cancel_dump_traceback_later()

    def _dead(self) -> list[Path]:
        """Return the files of attempts that have ended without deleting them.

        One on another machine has ended, too: a shard is not tried again before.
        """
        pattern = f"{self.shard.stem}.attempt.*.partial"
        return [path for path in self.shard.parent.glob(pattern) if not writer_alive(path)]

    def _suspects(self) -> dict[str, str]:
        ends: dict[str, list[str]] = {}
        for path in self._dead():
            with contextlib.suppress(OSError):
                raw = path.read_bytes()
                if name := raw[:_LENGTH].rstrip(b"\n").decode("utf-8", "replace"):
                    ends.setdefault(name, []).append(_end(raw[_LENGTH:], self.limit))
        found = {}
        for name, reasons in ends.items():
            most, _ = Counter(reasons).most_common(1)[0]
            timeouts = sum(reason.startswith("took") for reason in reasons)
            if len(reasons) >= DEATHS or timeouts >= TIMEOUTS:
                found[name] = f"{most} ({len(reasons)} attempts)"
        return found


def _end(written: bytes, limit: float) -> str:
    """Return what happened to a process, from what faulthandler wrote."""
    text = written.decode("utf-8", "replace")
    if text.startswith("Timeout"):
        return f"took longer than {limit:g} s"
    fatal = re.match(r"Fatal Python error: (.+)", text)
    return f"crashed the process: {fatal[1]}" if fatal else "ended the process"
