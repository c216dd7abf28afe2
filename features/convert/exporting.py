"""Write a store in a foreign format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from features.convert.formats import EXPORT_FORMATS
from features.convert.writers.outputs import Outputs
from features.errors import UnknownName, UsageError
from features.store import open_store

__all__ = ["export_store"]


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
    """
    if format_name not in EXPORT_FORMATS:
        raise UnknownName.of("export format", format_name, EXPORT_FORMATS)
    entry = EXPORT_FORMATS[format_name]
    if unknown := sorted(set(options) - set(entry.options)):
        flag = unknown[0].replace("_", "-")
        raise UsageError(f"The format {format_name!r} has no option --{flag}.")
    chosen = None if splits is None else list(splits)
    with Outputs(target, overwrite=overwrite) as out:
        notes: list[str] = entry.load("writers")(open_store(store), out, chosen, **options)
    return notes
