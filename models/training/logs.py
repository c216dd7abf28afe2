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
from typing import Any, Self

from features.errors import MissingDependency, TrainingError
from models.evaluation.metrics import METRICS

__all__ = ["Events", "MetricsFile", "Speed"]

COLUMNS = (
    "step", "epoch", "kind", "loss", "lr", "pairs_per_s", "loader_wait", "gpu_mib", *METRICS
)  # fmt: skip


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
