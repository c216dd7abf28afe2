"""What a run says while it trains: ``metrics.csv`` always, a bar or plain lines, TensorBoard."""

from __future__ import annotations

import csv
import io
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from features.errors import MissingDependency, TrainingError
from models.evaluation.metrics import METRICS

__all__ = ["Events", "MetricsFile", "Progress", "Speed"]

COLUMNS = (
    "step", "epoch", "kind", "loss", "lr", "pairs_per_s", "loader_wait", "gpu_mib", *METRICS
)  # fmt: skip
PLAIN_SECONDS = 10.0


class MetricsFile:
    """The table of a run: one row per ``log_steps`` (kind ``train``) and per evaluation (``val``).

    Args:
        path: the CSV file.
        keep_to: rows of later steps are dropped, because a resumed run writes them again;
            None starts a new file.
    """

    def __init__(self, path: Path, keep_to: int | None = None) -> None:
        self.path = path
        kept: list[dict[str, str]] = []
        if keep_to is not None and path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if _step_of(row) <= keep_to]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        try:
            partial = path.with_name(path.name + ".partial")
            partial.write_text(text.getvalue())
            partial.replace(path)
        except OSError as error:
            raise self._failed(error) from error

    def add(self, **values: object) -> None:
        """Append one row; what is not named stays empty. Floats are written exactly."""
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(values)
        try:
            with self.path.open("a") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"{self.path}: cannot be written ({error.strerror}). Free some space or choose "
            "another --run.folder; the last checkpoint is kept."
        )


def _step_of(row: Mapping[str, str]) -> int:
    """Return the step of a row; a torn last line counts as beyond any checkpoint."""
    step = row.get("step") or ""
    return int(step) if step.isdigit() and None not in row.values() else sys.maxsize


class Events:
    """TensorBoard events beside the table, when asked for.

    Args:
        folder: where events go; None: nowhere.
        keep_to: events of later steps, which an earlier attempt left there, are not shown.

    Raises:
        MissingDependency: TensorBoard is not installed.
        TrainingError: events cannot be written (any method may raise it).
    """

    def __init__(self, folder: Path | None, keep_to: int = 0) -> None:
        self._writer: Any = None
        self._folder = folder
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependency.of(
                    "tensorboard", "--run.tensorboard", "pip install tensorboard"
                ) from error
            with self._errors():
                self._writer = SummaryWriter(str(folder), purge_step=keep_to + 1)

    def __enter__(self) -> Self:
        # the writer's thread hands its error over, and then lets Python print a trace as well
        self._hook = threading.excepthook
        if self._writer is not None:
            threading.excepthook = self._thread_failed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with suppress(TrainingError) if error else nullcontext():  # the first is the one to say
                self.close()
        finally:
            threading.excepthook = self._hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)

    def add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Write each value as the curve ``group/name``."""
        if self._writer is not None:
            with self._errors():
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            with self._errors():
                self._writer.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self._folder}: events cannot be written ({error.strerror or error}). Free some "
                "space, or say --run.tensorboard false; the last checkpoint is kept."
            ) from error


class Speed:
    """Pairs per second and the share of time spent waiting for the loader, since the last row."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.start = time.perf_counter()
        self.waited = 0.0
        self.pairs = 0

    def add(self, pairs: int, waited: float) -> None:
        """Count one batch."""
        self.pairs += pairs
        self.waited += waited

    @property
    def pairs_per_s(self) -> float:
        """Pairs per second of wall time."""
        return self.pairs / max(1e-9, time.perf_counter() - self.start)

    @property
    def loader_wait(self) -> float:
        """Share of the wall time, 0 to 1; near 0 means that the store is not the limit."""
        return self.waited / max(1e-9, time.perf_counter() - self.start)


class Progress:
    """A bar on a terminal, else a plain line every ten seconds.

    Args:
        total: steps of the whole run.   done: steps already taken.
        name: said before every line; several runs may share an output.
        quiet: say nothing (ranks other than the first).
        stream: where to; standard output when None.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        name: str = "",
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.done, self.quiet = total, done, quiet
        self._before = f"{name}: " if name else ""
        self.stream = stream or sys.stdout
        self._first, self._start = done, time.perf_counter()
        self._said = self._start
        self._bar: Any = None
        self._task: Any = None
        if not quiet and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self.stream),
            )
            self._task = self._bar.add_task("training", total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, epoch: int, note: str) -> None:
        """Count one step and, when it is time, say where the run stands.

        Args:
            epoch: running epoch, from 1.   note: loss, pairs/s and the like.
        """
        self.done += 1
        if self.quiet:
            return
        if self._bar is not None:
            where = f"{self._before}epoch {epoch}"
            self._bar.update(self._task, completed=self.done, description=where, note=note)
            return
        now = time.perf_counter()
        if now - self._said >= PLAIN_SECONDS:
            self._said = now
            left = (now - self._start) / (self.done - self._first) * (self.total - self.done)
            self.say(f"epoch {epoch} step {self.done}/{self.total} {note} {clock(left)} left")

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(self._before + text, highlight=False, markup=False)
        else:
            self.stream.write(f"{self._before}{text}\n")
            self.stream.flush()


def clock(seconds: float) -> str:
    """Return a duration as people read it.

    >>> clock(59), clock(61), clock(7322)
    ('59 s', '1 min 01 s', '2 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
