"""A store of any number of full shards whose data are holes in the files, to time its opening."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from features.format.group import finish_group, image_index
from features.format.keys import folder_name
from features.format.manifest import bind_store
from features.format.schema import GROUPS
from features.format.shard import first_data, hash_head, hash_rest, lay_out
from features.format.sidecar import Part, ShardRecord, shard_file

SIZES = {"K": 36, "R": 25, "D": 2048}
ROWS = 4096


def make_sparse_store(folder: Path, shards: int) -> Path:
    """Write index, visual and regions groups of ``shards`` x 4,096 images; return the store."""
    groups: dict[str, Path] = {}
    index = ""
    for number, group in enumerate(("index", "visual", "regions")):
        groups[group] = _group(folder, group, f"{number:064x}", shards, index)
        index = index or image_index(groups["index"])
    return bind_store(folder, "sparse", groups, {})


def _group(store: Path, group: str, key: str, shards: int, index: str) -> Path:
    folder = store / folder_name(group, key)
    folder.mkdir(parents=True)
    columns = {}
    for column in GROUPS[group].columns:
        for name, dtypes in column.parts().items():
            offsets = column.kind == "offsets" or name.endswith("/offsets")
            rows = ROWS + offsets
            shape = tuple(SIZES.get(str(side), side) for side in column.shape)
            if "/names/" in name:
                rows, shape = 1 + offsets, ()
            one = np.zeros(1, dtypes[0])
            strides = (0,) * (1 + len(shape))
            columns[name] = np.lib.stride_tricks.as_strided(one, (rows, *shape), strides)
    first = folder / "first"
    offsets = lay_out(first, columns, group, key)
    size = first.stat().st_size
    nothing = hashlib.sha256(b"").hexdigest()
    parts = {
        name: Part(offsets[name], data.shape, data.dtype.str, nothing)
        for name, data in columns.items()
    }
    stop = first_data(parts.values(), size)
    head, rest = hash_head(first, stop), hash_rest(first, size, parts.values())
    around = _around(first, size, parts.values())
    records = []
    for number in range(shards):
        with shard_file(folder, number).open("wb") as file:
            file.truncate(size)
            for at, data in around:
                file.seek(at)
                file.write(data)
        row0 = number * ROWS
        records.append(ShardRecord(group, key, number, row0, ROWS, size, head, rest, parts))
    first.unlink()
    finish_group(folder, group, key, {}, records, index=index)
    return folder


def _around(path: Path, size: int, parts: Iterable[Part]) -> list[tuple[int, bytes]]:
    """Return place and bytes of everything that belongs to no dataset."""
    spans = sorted((part.offset, part.offset + part.nbytes) for part in parts if part.nbytes)
    starts, stops = [0, *(stop for _, stop in spans)], [*(start for start, _ in spans), size]
    found = []
    with path.open("rb") as file:
        for start, stop in zip(starts, stops, strict=True):
            file.seek(start)
            found.append((start, file.read(stop - start)))
    return found
