"""Keys and shards of the column groups that an import writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from features.errors import WriteError
from features.format import (
    Columns,
    Group,
    GroupManifest,
    content_key,
    hash_file,
    shard_ranges,
    sweep,
    write_errors,
)
from features.records import ImageEntry

__all__ = ["IMPORT_VERSION", "ImportPlan", "fingerprint", "need_space"]

IMPORT_VERSION = "2"
"""Part of every key; increase it when the same source gives other columns."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The images of an import in row order, where they go, and what makes the keys.

    Attributes:
        store_dir: folder of the store.
        entries: the images.
        parameters: options that change the contents of every group.
        inputs: name -> hash of each input.
    """

    store_dir: Path
    entries: Sequence[ImageEntry]
    parameters: Mapping[str, object]
    inputs: Mapping[str, str]

    @property
    def ranges(self) -> list[range]:
        """Image rows of every shard."""
        return shard_ranges(len(self.entries))

    def group(self, name: str, parameters: Mapping[str, object] | None = None) -> Group:
        """Return the variant of one group; partial files of dead imports are deleted."""
        group = Group.of(
            self.store_dir,
            name,
            IMPORT_VERSION,
            {**self.parameters, **(parameters or {})},
            self.inputs,
            stage=f"import-{name}",
        )
        sweep(group.folder)
        return group

    def write(
        self, group: Group, pack: Callable[[Sequence[ImageEntry]], Columns], index: str = ""
    ) -> GroupManifest:
        """Write the missing shards of a group, then its manifest.

        Args:
            group: the group.
            pack: images of a shard -> its columns.
            index: ``image_index`` of the index that the group follows, "" for the index itself.
        """
        for number in group.missing(self.ranges):
            rows = self.ranges[number]
            group.write(number, rows, pack(self.entries[rows.start : rows.stop]))
        return group.finish(len(self.ranges), index=index)


def fingerprint(files: Iterable[Path]) -> str:
    """Return one hash of the names and contents of files, in their order."""
    paths = list(files)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(hash_file, paths))
    inputs = {
        f"{at} {path.name}": digest
        for at, (path, digest) in enumerate(zip(paths, hashes, strict=True))
    }
    return content_key("import-source", IMPORT_VERSION, {}, inputs)


def need_space(folder: Path, wanted: int) -> None:
    """Check that the disk of a folder, which need not exist yet, has enough free space.

    Images without boxes are stored as zeros, so a small file can become a large store.

    Raises: WriteError: it has not; the message gives both sizes.
    """
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    with write_errors(folder):
        free = shutil.disk_usage(there).free
    if wanted > free:
        raise WriteError(
            f"{folder}: the store needs {wanted / 1e6:,.1f} MB, the disk has {free / 1e6:,.1f} MB "
            "free. Free some space, or take fewer boxes: --max-objects."
        )
