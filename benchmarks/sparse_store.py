"""A store with any number of full shards whose data are holes in sparse files, to time opening."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.format import (
    GROUPS,
    Group,
    GroupManifest,
    Part,
    Shard,
    bind_store,
    canonical_json,
    folder_name,
    lay_out,
    read_group,
    record_of,
    write_sealed,
)

SIZES = {"K": 36, "R": 25, "D": 2048}
ROWS = 4096
LINKS = 30_000  # of one file; file systems allow some 65,000


def make_sparse_store(folder: Path, shards: int) -> Path:
    """Write index, visual and regions groups of ``shards`` x 4,096 images; return the store."""
    groups: dict[str, Path] = {}
    index = ""
    for number, name in enumerate(("index", "visual", "regions")):
        key = f"{number:064x}"
        group = Group(name, key, folder / folder_name(name, key))
        _write(group, shards, index)
        groups[name] = group.folder
        index = index or read_group(group.folder).image_index
    return bind_store(folder, "sparse", groups, {})


def _write(group: Group, shards: int, index: str) -> None:
    group.folder.mkdir(parents=True)
    columns = {}
    for column in GROUPS[group.name].columns:
        for name, dtypes in column.parts().items():
            offsets = column.kind == "offsets" or name.endswith("/offsets")
            rows = ROWS + offsets
            shape = tuple(SIZES.get(str(side), side) for side in column.shape)
            if "/names/" in name:
                rows, shape = 1 + offsets, ()
            one = np.zeros(1, dtypes[0])
            strides = (0,) * (1 + len(shape))
            columns[name] = np.lib.stride_tricks.as_strided(one, (rows, *shape), strides)
    first = group.folder / "first"
    offsets = lay_out(first, columns, group.name, group.key)
    nothing = hashlib.sha256(b"").hexdigest()
    parts = {
        name: Part(offsets[name], data.shape, data.dtype.str, nothing)
        for name, data in columns.items()
    }
    record = record_of(first, parts, group=group.name, key=group.key, number=0, rows=range(ROWS))
    around = _around(first, record.size, parts.values())
    first.unlink()
    records, whole = [], first
    for number in range(shards):
        path = group.shard(number).path
        if number % LINKS:
            path.hardlink_to(whole)  # all shards have the same bytes
        else:
            whole = path
            with path.open("wb") as file:
                file.truncate(record.size)
                for at, data in around:
                    file.seek(at)
                    file.write(data)
        records.append(replace(record, number=number, row0=number * ROWS))
    group.finish(records, index=index)


def write_sidecars(manifest: GroupManifest) -> None:
    """Write the sidecars of a sparse group, as a build that has been stopped leaves them."""
    first = Shard(manifest.folder, 0).sidecar
    write_sealed(first, manifest.record(0).document())
    document = json.loads(first.read_bytes())
    del document["seal"]
    for number in range(1, len(manifest.rows)):  # without flushing each to disk
        changed = {**document, "number": number, "row0": number * ROWS}
        body = canonical_json(changed).encode()[:-1]
        seal = hashlib.sha256(body).hexdigest()
        Shard(manifest.folder, number).sidecar.write_bytes(body + f',"seal":"{seal}"}}\n'.encode())


def _around(path: Path, size: int, parts: Iterable[Part]) -> list[tuple[int, bytes]]:
    """Return offset and bytes of everything outside the datasets."""
    spans = sorted((part.offset, part.offset + part.nbytes) for part in parts if part.nbytes)
    starts, stops = [0, *(stop for _, stop in spans)], [*(start for start, _ in spans), size]
    found = []
    with path.open("rb") as file:
        for start, stop in zip(starts, stops, strict=True):
            file.seek(start)
            found.append((start, file.read(stop - start)))
    return found
