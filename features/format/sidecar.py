"""Temporary names while callers move to ``Group`` and ``Shard``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.format.group import Group, read_group
from features.format.record import ShardRecord
from features.format.schema import Columns
from features.format.shard import Shard


def write_shard(
    folder: Path, number: int, columns: Columns, *, group: str, key: str, row0: int, rows: int
) -> ShardRecord:
    """Write a shard."""
    return Group(group, key, folder).write(number, range(row0, row0 + rows), columns)


def finish_group(
    folder: Path,
    group: str,
    key: str,
    params: Mapping[str, object],
    shards: Sequence[ShardRecord] | int,
    *,
    index: str = "",
) -> dict[str, Any]:
    """Finish a group."""
    manifest = Group(group, key, folder, params).finish(shards, index=index)
    return {"hash": manifest.hash, "params": manifest.params}


def group_done(folder: Path, key: str) -> bool:
    """Say whether a group is finished."""
    return Group("", key, folder).finished()


def image_index(folder: Path) -> str:
    """Return the image index of a group."""
    return read_group(folder).image_index


def read_sidecar(folder: Path, number: int) -> ShardRecord:
    """Read a sidecar."""
    return Shard(folder, number).record


def shard_done(
    folder: Path, number: int, key: str, rows: range | None = None
) -> ShardRecord | None:
    """Return the record of a finished shard."""
    return Shard(folder, number).finished(key, rows)


def shard_file(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return Shard(folder, number).path


def read_columns(folder: Path, number: int) -> Columns:
    """Read a shard."""
    return Shard(folder, number).columns()
