"""Keys, folders and shards of the column groups that an import writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from features.errors import WriteError
from features.format.files import sweep, write_errors
from features.format.keys import content_key, folder_name, hash_file
from features.format.manifest import finish_group
from features.format.schema import Columns
from features.format.shard import write_shard
from features.format.sidecar import shard_done

__all__ = ["IMPORT_VERSION", "GroupWriter", "ImportPlan", "fingerprint", "need_space"]

IMPORT_VERSION = "2"
"""Bump it when the same source gives other columns; part of every key."""


@dataclass(frozen=True, slots=True)
class GroupWriter:
    """One column group on its way to disk."""

    name: str
    key: str
    folder: Path
    params: dict[str, object]
    ranges: list[range]

    def has(self, number: int) -> bool:
        """Say whether a shard is already there under this key."""
        return shard_done(self.folder, number, self.key) is not None

    def write_one(self, number: int, columns: Columns) -> None:
        """Write one shard."""
        rows = self.ranges[number]
        write_shard(
            self.folder,
            number,
            columns,
            group=self.name,
            key=self.key,
            row0=rows.start,
            rows=len(rows),
        )

    def write(self, pack: Callable[[range], Columns], index: str = "") -> None:
        """Write the shards that are missing, then the manifest.

        Args:
            pack: image rows -> columns of that shard.
            index: identity of the image index that the group follows, "" for the index itself.
        """
        for number, rows in enumerate(self.ranges):
            if not self.has(number):
                self.write_one(number, pack(rows))
        self.finish(index)

    def finish(self, index: str) -> None:
        """Write the manifest of the group."""
        finish_group(self.folder, self.name, self.key, self.params, len(self.ranges), index=index)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What the keys of one import's groups are made from."""

    store_dir: Path
    ranges: list[range]
    inputs: dict[str, str]

    def group(self, name: str, parameters: Mapping[str, object]) -> GroupWriter:
        """Return the writer of one group; leftovers of killed imports are swept."""
        key = content_key(f"import-{name}", IMPORT_VERSION, parameters, self.inputs)
        folder = self.store_dir / folder_name(name, key)
        sweep(folder)
        params: dict[str, object] = {
            "stage": f"import-{name}",
            "version": IMPORT_VERSION,
            "parameters": dict(parameters),
            "inputs": self.inputs,
        }
        return GroupWriter(name, key, folder, params, self.ranges)


def fingerprint(files: Iterable[Path]) -> str:
    """Return one hash over the contents of files, in their order."""
    paths = list(files)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(hash_file, paths))
    inputs = {
        f"{at} {path.name}": digest
        for at, (path, digest) in enumerate(zip(paths, hashes, strict=True))
    }
    return content_key("import-source", IMPORT_VERSION, {}, inputs)


def need_space(folder: Path, wanted: int) -> None:
    """Check that the disk of a folder, which may not be there yet, has room before writing to it.

    Images without boxes are stored as zeros, so a small file can become a large store.

    Raises: WriteError: it has not; both numbers are named.
    """
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    with write_errors(folder):
        free = shutil.disk_usage(there).free
    if wanted > free:
        raise WriteError(
            f"{folder}: the store needs {wanted / 1e6:,.1f} MB, the disk has {free / 1e6:,.1f} MB "
            "free. Free some space, or take fewer boxes: --max-objects."
        )
