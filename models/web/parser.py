"""A parser in another process that stays loaded: models need no parser, and readers type twice."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from typing import IO

from features.errors import UsageError
from features.records import TextGraph
from models.evaluation import read_graph

__all__ = ["LiveParser"]


class LiveParser:
    """``python -m pipeline parse --stream``, started when the first text is parsed.

    Args:
        parser, profile: see ``python -m pipeline parse``.
    """

    def __init__(self, parser: str, profile: str) -> None:
        words = ["parse", "--json", "--stream", "--parser", parser, "--profile", profile, "--", "-"]
        self._command = [sys.executable, "-m", "pipeline", *words]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def parse(self, text: str) -> TextGraph:
        """Parse a text; line breaks in it count as spaces.

        Raises: UsageError: it cannot be parsed; the message is the parser's.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            answer = ""
            with contextlib.suppress(OSError):  # it has ended: its last line says why
                process.stdin.write(" ".join(text.split()) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            if not answer:
                raise UsageError(f"{text!r} could not be parsed: {self._end()}")
        return read_graph(answer)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _end(self) -> str:
        """End the process and return its last message."""
        process, errors = self._process, self._errors
        self._process = self._errors = None
        if process is None or errors is None:
            return ""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(timeout=10)  # closes its input, at which it ends
        if process.poll() is None:
            process.kill()
            process.wait()
        with errors:
            errors.seek(0)
            lines = errors.read().strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "no reason given"
