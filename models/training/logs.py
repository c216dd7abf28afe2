"""Logs of a run: ``metrics.csv``, TensorBoard events, and the speed of training."""

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
from typing import Any, Self

from features.errors import InputError, MissingDependency, TrainingError
from features.format import replacing, write_errors
from models.evaluation import METRICS

COLUMNS = (
    "step", "epoch", "kind", "loss", "lr", "pairs_per_s", "loader_wait", "gpu_mib", *METRICS
)  # fmt: skip


class MetricsFile:
    """Table of a run: a row per ``log_steps`` (kind ``train``) and per evaluation (``val``).

    Args:
        path: the CSV file.
        keep_to: last step whose rows are kept; a resumed run writes later ones again. None: start
            a new file.
        before: the file to keep rows of, if not ``path``.

    Raises: InputError: rows to keep are damaged. WriteError: the file cannot be written.
    """

    def __init__(
        self, path: Path, keep_to: int | None = None, *, before: Path | None = None
    ) -> None:
        self.path = path
        kept: list[dict[str, str]] = []
        before = before or path
        if keep_to is not None and before.is_file():
            kept = [row for row in read_metrics(before) if _step_of(row) <= keep_to]
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)

    def add(self, **values: object) -> None:
        """Append one row; missing columns stay empty, floats are written exactly."""
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(values)
        with write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the rows of ``metrics.csv``; the last one may be incomplete.

    Raises: InputError: the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}). Restore the file, or delete it.") from error


def _step_of(row: Mapping[str, str]) -> int:
    """Return the step of a row; an incomplete last line counts as later than any step."""
    step = row.get("step") or ""
    return int(step) if step.isdigit() and None not in row.values() else sys.maxsize


class Events:
    """TensorBoard events.

    Args:
        folder: where to write; None: write nothing.
        keep_to: events of later steps, written by an earlier attempt, are hidden.

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
        # An error in the writer's thread is raised by the next call, and printed by Python, too.
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
            with suppress(TrainingError) if error else nullcontext():  # raise the first error only
                self.close()
        finally:
            threading.excepthook = self._hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)

    def add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Write each value as a point of the curve ``group/name``."""
        if self._writer is not None:
            with self._errors():
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the file."""
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
                "space, or pass --run.tensorboard false; the last checkpoint is kept."
            ) from error


class Speed:
    """Pairs per second, and the share of time spent waiting for the loader, since the last row."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start counting from zero."""
        self.start = time.perf_counter()
        self.waited = 0.0
        self.pairs = 0

    def add(self, pairs: int, waited: float) -> None:
        """Count one batch and the seconds spent waiting for it."""
        self.pairs += pairs
        self.waited += waited

    @property
    def pairs_per_s(self) -> float:
        """Pairs per second of wall time."""
        return self.pairs / max(1e-9, time.perf_counter() - self.start)

    @property
    def loader_wait(self) -> float:
        """Share of wall time, 0 to 1; near 0 means that reading is not the bottleneck."""
        return self.waited / max(1e-9, time.perf_counter() - self.start)
