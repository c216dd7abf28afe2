"""The foreign formats by name, from ``formats.json``: the reader or writer of each."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from features.convert.safe.values import check_text
from features.convert.source import Source
from features.convert.writers.outputs import Outputs
from features.errors import InputError, UnknownName, UsageError
from features.format import Shard
from features.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Format:
    """A format that can be read or written.

    Attributes:
        target: its module and class in ``readers``, or its module and function in ``writers``.
        doc: one line of help.
        options: keywords that the class or function takes beside those that all take.
    """

    target: str
    doc: str
    options: tuple[str, ...] = ()

    def load(self, package: str) -> Callable[..., Any]:
        """Return the reader's class or the writer's function."""
        module, _, name = self.target.partition(".")
        found: Callable[..., Any] = pkgutil.resolve_name(
            f"features.convert.{package}.{module}:{name}"
        )
        return found


_TABLES = json.loads(resources.files("features.convert").joinpath("formats.json").read_bytes())
IMPORT_FORMATS, EXPORT_FORMATS = (
    {name: Format(**entry) for name, entry in _TABLES[way].items()} for way in ("import", "export")
)


def open_source(name: str, path: Path | str, extras: Mapping[str, str] | None = None) -> Source:
    """Open a foreign file or folder.

    Args:
        name: a key of ``IMPORT_FORMATS``.
        path: file or folder.
        extras: further files, by the keywords that the format takes.

    Raises:
        UnknownName: there is no such format.
        UsageError: the format does not take an extra file.
        InputError: the file is not of this format, or an id cannot be written as UTF-8.
    """
    if name not in IMPORT_FORMATS:
        raise UnknownName.of("import format", name, IMPORT_FORMATS)
    entry = IMPORT_FORMATS[name]
    if unknown := sorted(set(extras or {}) - set(entry.options)):
        takes = ", ".join(entry.options) or "none"
        raise UsageError(f"format {name!r} takes no extra file {unknown[0]!r}; it takes: {takes}.")
    source: Source = entry.load("readers")(path, **(extras or {}))
    try:
        check_text(path, "the image id", source.ids())
    except InputError:
        source.close()
        raise
    return source


def export_store(
    format_name: str,
    store: Path | str,
    target: Path | str,
    *,
    splits: Sequence[str] | None = None,
    overwrite: bool = False,
    **options: object,
) -> list[str]:
    """Write a store in a foreign format; return notes for the user.

    Args:
        format_name: a key of ``EXPORT_FORMATS``.
        store: folder or store manifest.
        target: file or folder to write.
        splits: names of splits; None for all.
        overwrite: replace existing files.
        options: further options of the format.

    Raises:
        UnknownName: there is no such format.
        UsageError: the format does not take an option, or a file exists already.
        DamagedError: a byte of the store differs from what was written.
    """
    if format_name not in EXPORT_FORMATS:
        raise UnknownName.of("export format", format_name, EXPORT_FORMATS)
    entry = EXPORT_FORMATS[format_name]
    if unknown := sorted(set(options) - set(entry.options)):
        flag = unknown[0].replace("_", "-")
        raise UsageError(f"The format {format_name!r} has no option --{flag}.")
    chosen = None if splits is None else list(splits)
    with Outputs(target, overwrite=overwrite) as out:
        opened = open_store(store)
        notes: list[str] = entry.load("writers")(opened, out, chosen, **options)
        _check_bytes(opened)
    return notes


def _check_bytes(store: Store) -> None:
    """Compare what was read with its hashes: an export has none, so damage would stay unseen."""
    if store.mirror is not None:
        return  # compared when it was fetched
    for group in store.groups_read:
        for number in range(len(group.rows)):
            Shard(group.folder, number).check(group.record(number))
