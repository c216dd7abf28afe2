"""Keys and shards of the column groups that an import writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from features.errors import WriteError
from features.format.files import sweep, write_errors
from features.format.group import Group
from features.format.keys import content_key, hash_file
from features.format.schema import Columns

__all__ = ["IMPORT_VERSION", "ImportPlan", "fingerprint", "need_space"]

IMPORT_VERSION = "2"
"""Part of every key; increase it when the same source gives other columns."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Where an import writes, the image rows of its shards, and the inputs of its keys."""

    store_dir: Path
    ranges: list[range]
    inputs: dict[str, str]

    def group(self, name: str, parameters: Mapping[str, object]) -> Group:
        """Return the variant of one group; partial files of dead imports are deleted."""
        group = Group.of(
            self.store_dir, name, IMPORT_VERSION, parameters, self.inputs, stage=f"import-{name}"
        )
        sweep(group.folder)
        return group

    def write(self, group: Group, pack: Callable[[range], Columns], index: str = "") -> None:
        """Write the missing shards of a group, then its manifest.

        Args:
            group: the group.
            pack: image rows -> columns of that shard.
            index: ``image_index`` of the index that the group follows, "" for the index itself.
        """
        for number in group.missing(self.ranges):
            group.write(number, self.ranges[number], pack(self.ranges[number]))
        group.finish(len(self.ranges), index=index)


def fingerprint(files: Iterable[Path]) -> str:
    """Return one hash of the contents of files, in their order."""
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
