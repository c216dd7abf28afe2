"""Exported files: written under a partial name, renamed when all of them are whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from features.errors import UsageError
from features.format.files import partial_path, sync_folder, write_errors
from features.names import bad_name

__all__ = ["Outputs", "id_lines"]


class Outputs:
    """The files of one export; a context that publishes all of them, or none.

    Only files with the names of the export are ever replaced or removed; whatever else is in a
    folder stays.

    Args:
        target: the file, or the folder of the files.
        overwrite: replace files that are already there.
    """

    def __init__(self, target: Path | str, *, overwrite: bool = False) -> None:
        self.target = Path(target)
        self.overwrite = overwrite
        self._partial: dict[Path, Path] = {}
        self._stale: list[Path] = []

    def path(self, name: str = "") -> Path:
        """Return where to write a file; name every file before the first is written.

        Args:
            name: name inside the folder ``target``; "" for ``target`` itself.

        Raises: UsageError: the file is there and may not be overwritten, or would lie elsewhere.
        """
        final = self._final(name)
        if final not in self._partial:
            with write_errors(final):
                final.parent.mkdir(parents=True, exist_ok=True)
            self._partial[final] = partial_path(final)
        return self._partial[final]

    def absent(self, name: str) -> None:
        """Say that the export has no such file: an old one beside the new ones would be read.

        Raises: UsageError: it is there and may not be overwritten.
        """
        final = self._final(name)
        if final.exists():
            self._stale.append(final)

    def _final(self, name: str) -> Path:
        # names of splits are part of file names, and a store can come from anybody
        if name in (".", "..") or any(mark in name for mark in "/\\\0"):
            raise UsageError(
                f"{self.target}: the file {name!r} would lie outside. Choose other --splits."
            )
        final = self.target / name if name else self.target
        if final.is_dir() or (final.exists() and not self.overwrite):
            what = "is a folder" if final.is_dir() else "is already there"
            raise UsageError(f"{final}: {what}. Choose another path, or pass --overwrite.")
        return final

    def __enter__(self) -> Self:
        """Begin the export."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Publish the files that were written, or delete them after an error."""
        written = {final: partial for final, partial in self._partial.items() if partial.exists()}
        try:
            if error is not None:
                if isinstance(error, OSError) and type(error).__module__ == "builtins":
                    with write_errors(self.target):
                        raise error
                return
            for final, partial in written.items():
                with write_errors(final):
                    descriptor = os.open(partial, os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
            for final in self._stale:  # first: a file too few is found out, a wrong one is read
                with write_errors(final):
                    final.unlink(missing_ok=True)
            for final, partial in written.items():
                with write_errors(final):
                    partial.replace(final)
            for folder in {final.parent for final in written}:
                sync_folder(folder)
        finally:
            for partial in written.values():
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)


def id_lines(ids: Iterable[str]) -> str:
    """Return ids one a line.

    Raises: UsageError: an id would be two lines, and shift all behind it.
    """
    lines = []
    for key in ids:
        if reason := bad_name(key):
            raise UsageError(
                f"id {key!r}: {reason}; ids.txt has one a line. Rename it and import again."
            )
        lines.append(f"{key}\n")
    return "".join(lines)
