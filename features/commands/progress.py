"""Progress of a long job: a bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self, TextIO

from features.commands import terminal

EVERY_SECONDS = 10.0


class Progress:
    """Count finished items and show how far the job is.

    Args:
        label: name of the job; starts every line.   unit: what is counted, such as ``images``.
        total: number of items.   done: items that an earlier run has finished.
        stream: where to write; standard error when None.   quiet: write nothing.
        publish: called with the current line and percentage, at most once a second.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        total: int,
        done: int = 0,
        *,
        stream: TextIO | None = None,
        quiet: bool = False,
        publish: Callable[[str, int], None] | None = None,
    ) -> None:
        self.label, self.unit, self.total, self.done = label, unit, total, done
        self.quiet = quiet or terminal.level() == terminal.QUIET
        quiet = self.quiet
        self.stream = stream or sys.stderr
        self._before = done
        self._publish = publish
        self._started = self._shown = self._published = time.monotonic()
        self._bar: Any = None
        if not quiet and self.stream.isatty():
            # rich takes 50 ms to load
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("[bold]{task.description:<16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self.stream),
            )
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Items per second in this run."""
        return (self.done - self._before) / max(time.monotonic() - self._started, 1e-9)

    def line(self, note: str = "") -> str:
        """Return the state as one line: ``captions: 512/1,024 images - 410/s - 1.2 s left``."""
        left = f"{clock((self.total - self.done) / self.rate)} left" if self.rate else "starting"
        state = f"{self.label}: {self.done:,}/{self.total:,} {self.unit}"
        return f"{state} - {note or self._speed()} - {left}"

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count finished items and show the state if it is time to.

        Args:
            items: how many.   note: shown instead of the items per second.
        """
        self.done += items
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note or self._speed())
        elif now - self._shown >= EVERY_SECONDS or self.done == self.total:
            self._shown = now
            self.say(self.line(note))
        if self._publish is not None and (now - self._published >= 1 or self.done == self.total):
            self._published = now
            self._publish(self.line(note), round(100 * self.done / max(self.total, 1)))

    def take_back(self, items: int) -> None:
        """Count items of an earlier run that turned out not to be finished."""
        self.done -= items
        self._before -= items

    def say(self, text: str) -> None:
        """Write one line, above the bar if there is one."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def _speed(self) -> str:
        return f"{self.rate:,.1f}/s" if self.rate < 100 else f"{self.rate:,.0f}/s"


def clock(seconds: float) -> str:
    """Return a duration in the two largest units that it has.

    >>> clock(8.24), clock(59), clock(61), clock(7322)
    ('8.2 s', '59 s', '1 min 01 s', '2 h 02 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
