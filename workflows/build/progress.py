"""Progress that people can read: a bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Progress"]

EVERY_SECONDS = 10.0


class Progress:
    """Count finished items of one stage and say how it goes.

    Args:
        label: name of the stage.   unit: what is counted, for example ``images``.
        total: items in all.   done: items that an earlier run has finished.
        publish: called with the same line for Luigi's status message, at most every second.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        total: int,
        done: int = 0,
        publish: Callable[[str, int], None] | None = None,
    ) -> None:
        self.label, self.unit, self.total, self.done = label, unit, total, done
        self._before = done
        self._publish = publish
        self._started = self._said = self._published = time.monotonic()
        self._console = Console(stderr=True)
        self._bar = (
            RichProgress(
                TextColumn("[bold]{task.description:<16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.done, rate=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away, also after an error."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Items a second in this run."""
        return (self.done - self._before) / max(time.monotonic() - self._started, 1e-9)

    def line(self) -> str:
        """Return the state as one line, for example ``captions 512/1,024 - 410/s - 2 s left``."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("inf")
        time_left = f"{left:,.0f} s left" if left < float("inf") else "starting"
        rate = f"{self.rate:,.1f}" if self.rate < 100 else f"{self.rate:,.0f}"
        state = f"{self.label}: {self.done:,}/{self.total:,} {self.unit}"
        return f"{state} - {rate}/s - {time_left}"

    def advance(self, items: int) -> None:
        """Count ``items`` more and tell whoever watches."""
        self.done += items
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=self.line().split(" - ", 1)[1])
        elif now - self._said >= EVERY_SECONDS or self.done == self.total:
            self._said = now
            sys.stderr.write(f"{self.line()}\n")
        if self._publish is not None and (now - self._published >= 1 or self.done == self.total):
            self._published = now
            self._publish(self.line(), round(100 * self.done / max(self.total, 1)))
