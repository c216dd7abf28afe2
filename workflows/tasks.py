"""Base classes of the Luigi tasks: short error messages, and tasks that a user starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import luigi

from features.errors import ScenestoreError
from features.format import unreadable

__all__ = ["EntryTask", "Task"]

_T = TypeVar("_T", bound=luigi.Task)


class Task(luigi.Task):
    """A Luigi task that reports an error by its message alone."""

    def clone(self, cls: type[_T], **changes: Any) -> _T:  # type: ignore[override]
        """Return a task of another class with the parameters that both have, and the changes."""
        task: _T = super().clone(cls, **changes)  # type: ignore[no-untyped-call]
        return task

    def on_failure(self, exception: BaseException) -> str:
        """Return the message that the scheduler shows; Luigi's own is a stack trace."""
        return f"{type(exception).__name__}: {exception}"


class EntryTask(Task):
    """A task that a user starts: it runs once per process, even if everything is up to date.

    Subclasses define ``work``, and ``needs`` if they require other tasks.
    """

    _done = False
    _error: ScenestoreError | None = None

    def needs(self) -> list[luigi.Task]:
        """Return the tasks that must be complete first."""
        return []

    def work(self) -> Iterable[Any] | None:
        """Do the work; yield tasks that turn out to be needed, as a Luigi ``run`` does."""
        raise NotImplementedError

    def requires(self) -> list[luigi.Task]:
        """Return ``needs()``; ``run`` raises an error of theirs.

        If ``requires`` raised it, Luigi would print a stack trace and exit as if scheduling failed.
        """
        if self._error is not None:  # Luigi asks again; the answer must not change
            return []
        try:
            return self.needs()
        except ScenestoreError as error:
            self._error = error
        except OSError as error:  # such as a path that is too long
            self._error = unreadable(Path(error.filename or "."), error)
        return []

    def complete(self) -> bool:
        """Return True once the task has run in this process."""
        return self._done

    def run(self) -> Iterator[Any]:
        """Do the work, unless ``needs`` failed."""
        if self._error is not None:
            raise self._error
        yield from self.work() or ()
        self._done = True
