"""What the writers share: files that appear together, ids as lines, rows of some splits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format import partial_path, publish, refuse_device, sync_file, write_errors
from features.names import bad_name

if TYPE_CHECKING:
    import pandas as pd

    from features.store import Store

Floats = npt.NDArray[np.float32]


class Outputs:
    """The files of one export: a context that publishes all of them at its end, or none.

    Only files with the names of the export are replaced or removed; other files in a folder stay.

    Args:
        target: the file, or the folder of the files.
        overwrite: replace existing files.
    """

    def __init__(self, target: Path | str, *, overwrite: bool = False) -> None:
        self.target = Path(target)
        self.overwrite = overwrite
        self._partial: dict[Path, Path] = {}
        self._stale: list[Path] = []
        self._made: list[Path] = []  # folders, innermost first

    def path(self, name: str = "") -> Path:
        """Return the partial path of a file; call it for every file before writing the first.

        Args:
            name: name inside the folder ``target``; "" for ``target`` itself.

        Raises: UsageError: the file exists and may not be overwritten, or is outside ``target``.
        """
        final = self._final(name)
        if final not in self._partial:
            self._made += [folder for folder in final.parents if not folder.exists()]
            with write_errors(final):
                final.parent.mkdir(parents=True, exist_ok=True)
            self._partial[final] = partial_path(final)
        return self._partial[final]

    def absent(self, name: str) -> None:
        """Remove an old file that this export does not have; readers would take it for new.

        Raises: UsageError: it exists and may not be overwritten.
        """
        final = self._final(name)
        if final.exists():
            self._stale.append(final)

    def _final(self, name: str) -> Path:
        # file names contain the names of splits, which come from the store
        if name in (".", "..") or any(mark in name for mark in "/\\\0"):
            raise UsageError(f"{self.target}: {name!r} is outside it. Choose other --splits.")
        final = self.target / name if name else self.target
        if final.is_dir() or (final.exists() and not self.overwrite):
            what = "is a folder" if final.is_dir() else "exists already"
            raise UsageError(f"{final}: {what}. Choose another path, or pass --overwrite.")
        with write_errors(final):
            refuse_device(final)
        return final

    def __enter__(self) -> Self:
        """Begin the export."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Publish the files that were written, or delete them after an error."""
        written = {final: partial for final, partial in self._partial.items() if partial.exists()}
        try:
            if error is not None:
                if isinstance(error, OSError) and type(error).__module__ == "builtins":
                    with write_errors(self.target):
                        raise error
                return
            for final, partial in written.items():  # all of them before the first is renamed
                with write_errors(final):
                    sync_file(partial)
            for final in self._stale:  # first: a missing file is noticed, a wrong one is not
                with write_errors(final):
                    final.unlink(missing_ok=True)
            for final, partial in written.items():
                with write_errors(final):
                    publish(partial, final, read_only=False)
        finally:
            for partial in written.values():
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
            if error is not None:
                for folder in self._made:
                    with contextlib.suppress(OSError):  # something else is in it
                        folder.rmdir()


def write_floats(path: Path, shape: tuple[int, ...], blocks: Iterable[Floats]) -> None:
    """Write float32 .npy block by block; on a full disk, a memory map would kill the process."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.tobytes())


def id_lines(ids: Iterable[str]) -> str:
    """Return ids, one per line.

    Raises: UsageError: an id that is not one line, which would shift all others.
    """
    lines = []
    for key in ids:
        if reason := bad_name(key):
            raise UsageError(
                f"id {key!r}: {reason}; ids.txt has one id per line. Rename it and import again."
            )
        lines.append(f"{key}\n")
    return "".join(lines)


def of_splits(store: Store, table: pd.DataFrame, splits: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows of a table of the store that belong to some splits; all for None.

    Args:
        table: one of ``store.table``.   splits: as ``store.image_rows`` takes them.

    Raises: UnknownName: the store has no such split.
    """
    if not splits:
        return table
    rows = [row for split in splits for row in store.image_rows(split).tolist()]
    images = store.images["id"].iloc[rows]
    return table[table["image" if "image" in table else "id"].isin(images)]
