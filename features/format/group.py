"""Group manifests: what makes a folder of shards a finished group.

A manifest lists every dataset of every shard, a list per field, so that one of 2,442 shards is read
in milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.errors import (
    FormatError,
    MismatchError,
    NewerFormatError,
    StageError,
    StoreError,
    UsageError,
)
from features.format.files import read_sealed, write_sealed
from features.format.keys import KEY_DIGITS, canonical_json, hash_json
from features.format.schema import GROUPS, axis_lengths
from features.format.sidecar import (
    Part,
    Parts,
    ShardRecord,
    check_parts,
    file_whole,
    read_sidecar,
    shard_file,
)

__all__ = [
    "GroupManifest",
    "Parts",
    "check_listed",
    "finish_group",
    "group_done",
    "image_index",
    "index_hash",
    "read_group",
]


@dataclass(frozen=True)
class GroupManifest:
    """A finished group: parameters and the place of every dataset of every shard.

    Attributes:
        folder: where the shards lie.   group, key: what they are.
        hash: content hash, over all columns; equal contents have equal hashes.
        index: hash of the image index whose rows the group follows, "" when not known.
        params: parameters and provenance, for people.
        rows, sizes: per shard: images, bytes of the file.
        heads: per shard: CRC-32 before the first dataset.   rests: sha256 outside the datasets.
        parts: dataset -> where it lies in every shard.
    """

    folder: Path
    group: str
    key: str
    hash: str
    index: str
    params: Mapping[str, Any]
    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    heads: tuple[str, ...]
    rests: tuple[str, ...]
    parts: Mapping[str, Parts]

    @property
    def path(self) -> Path:
        """The manifest's file."""
        return self.folder / "manifest.json"

    def axis_lengths(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the length of every axis in every shard."""
        lengths = {name: parts.lengths for name, parts in self.parts.items()}
        return axis_lengths(self.group, lengths, np.asarray(self.rows, np.int64))


def _hash_of(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def content_hash(parts: Mapping[str, Parts]) -> str:
    """Return the hash of a group's contents: sha256 over the sorted hashes of its columns."""
    columns = sorted(
        [name, kept.dtype, kept.shape, _hash_of(kept.hashes)] for name, kept in parts.items()
    )
    return hash_json(columns)


def finish_group(
    folder: Path,
    group: str,
    key: str,
    params: Mapping[str, object],
    shards: Sequence[ShardRecord] | int,
    *,
    index: str = "",
) -> dict[str, Any]:
    """Write ``manifest.json`` of a group whose shards are all there; the last step of a stage.

    A manifest that says the same already stays as it is: the folder may be read-only by now.

    Args:
        folder: the group's folder.
        group: name of the group.
        key: content key.
        params: parameters and provenance to remember (JSON values).
        shards: records in order, or their number (the sidecars are read then).
        index: ``image_index`` of the index group whose rows this group follows.

    Returns:
        The manifest as it stands in the folder.

    Raises:
        FormatError: a shard is missing, belongs to another key, or the shapes differ.
        StageError: the file of a shard has gone since it was written.
        MismatchError: the group is finished with another index or other contents.
        NewerFormatError: a newer release finished it.
        WriteError: the manifest cannot be written.
    """
    records = (
        [read_sidecar(folder, k) for k in range(shards)] if isinstance(shards, int) else shards
    )
    row0 = 0
    for number, record in enumerate(records):
        if (record.number, record.group, record.key, record.row0) != (number, group, key, row0):
            raise FormatError(
                f"{folder}: shard {number} is {record.group!r} {record.key[:KEY_DIGITS]} from row "
                f"{record.row0}, expected {group!r} {key[:KEY_DIGITS]} from row {row0}."
            )
        if not file_whole(folder, number, record.size):
            raise StageError(
                f"{shard_file(folder, number)}: has gone, or has not the {record.size} bytes that "
                "were written. Build again; the other shards are kept."
            )
        row0 += record.rows
    if not records:
        raise UsageError(f"{folder}: a group needs at least one shard; the data set has no images.")
    parts: dict[str, Parts] = {}
    for name in sorted(set().union(*(record.parts for record in records))):
        try:
            kept = [record.parts[name] for record in records]
        except KeyError:
            raise FormatError(f"{folder}: a shard lacks the dataset {name!r}.") from None
        kinds = sorted({(part.dtype, part.shape[1:]) for part in kept})
        if len(kinds) > 1:
            raise FormatError(f"{folder}: the shards disagree about {name!r}: {kinds}.")
        parts[name] = Parts(
            *kinds[0],
            lengths=np.array([part.shape[0] for part in kept]),
            offsets=np.array([part.offset for part in kept]),
            hashes=[part.sha256 for part in kept],
        )
    document: dict[str, Any] = {
        "kind": "group",
        "group": group,
        "key": key,
        "hash": content_hash(parts),
        "index": index,
        "params": dict(params),
        "shards": {
            "rows": [record.rows for record in records],
            "size": [record.size for record in records],
            "head": [record.head for record in records],
            "rest": [record.rest for record in records],
        },
        "columns": {
            name: {
                "dtype": kept.dtype,
                "shape": list(kept.shape),
                "length": kept.lengths.tolist(),
                "offset": kept.offsets.tolist(),
                "sha256": kept.hashes,
            }
            for name, kept in parts.items()
        },
    }
    before = _finished(folder, key)
    if before is not None:
        if (before.index, before.hash) != (index, document["hash"]):
            raise MismatchError(
                f"{before.path}: is finished with index {before.index[:KEY_DIGITS]!r} and hash "
                f"{before.hash[:KEY_DIGITS]}, not {index[:KEY_DIGITS]!r} and "
                f"{document['hash'][:KEY_DIGITS]}; stores are bound to it. {_GIVE_UP}"
            )
        if _same(before, document):
            return {**document, "params": dict(before.params)}
    write_sealed(folder / "manifest.json", document)
    return document


_GIVE_UP = (
    "Build into another folder; or, where the old contents are not needed, delete this manifest "
    "and build again."
)


def _finished(folder: Path, key: str) -> GroupManifest | None:
    """Return the manifest of a key, None where there is none that can be used."""
    try:
        manifest = read_group(folder)
    except NewerFormatError:
        raise
    except StoreError:
        return None
    return manifest if manifest.key == key else None


def _same(before: GroupManifest, document: Mapping[str, Any]) -> bool:
    """Say whether a manifest of equal contents says the same, but for when it was built."""
    files = {"rows": before.rows, "size": before.sizes, "head": before.heads, "rest": before.rests}
    told = [{**params, "built": None} for params in (before.params, document["params"])]
    return canonical_json([files, told[0]]) == canonical_json([document["shards"], told[1]])


def group_done(folder: Path, key: str) -> bool:
    """Say whether a group is finished: its manifest carries this key, its files are all there.

    Raises: NewerFormatError: a newer release finished it; building it here would destroy that.
    """
    manifest = _finished(folder, key)
    return manifest is not None and all(
        file_whole(folder, number, size) for number, size in enumerate(manifest.sizes)
    )


def check_listed(folder: Path, record: ShardRecord) -> None:
    """Check that a shard made anew is the one that the finished group lists, if there is one.

    Raises:
        MismatchError: it has other contents; stores and runs are bound to the old ones.
        NewerFormatError: a newer release finished the group.
    """
    manifest = _finished(folder, record.key)
    if manifest is None:
        return
    number = record.number
    listed: dict[str, object] = {"rows": ()}
    if number < len(manifest.rows):
        listed = {name: parts.hashes[number] for name, parts in manifest.parts.items()}
        listed["rows"] = (sum(manifest.rows[:number]), manifest.rows[number])
    made = {name: part.sha256 for name, part in record.parts.items()}
    other = [name for name, digest in made.items() if digest != listed.get(name)]
    if (record.row0, record.rows) != listed["rows"]:
        other.insert(0, "image rows")
    if other:
        raise MismatchError(
            f"{manifest.path}: shard {number} made anew differs from what is listed "
            f"({other[0]!r}); stores are bound to that. {_GIVE_UP}"
        )


def image_index(folder: Path) -> str:
    """Return the hash of the image ids of an index group; groups of one store share it."""
    return index_hash(read_group(folder))


def index_hash(index: GroupManifest) -> str:
    """Return ``image_index`` of a manifest that has been read."""
    names = ("image_id/bytes", "image_id/offsets")
    return _hash_of(sha256 for name in names for sha256 in index.parts[name].hashes)


def read_group(folder: Path) -> GroupManifest:
    """Read the manifest of a group.

    Raises:
        FormatError: no manifest, a newer format, or one that contradicts itself.
        DamagedError: its bytes are not those that were written.
    """
    path = folder / "manifest.json"
    document = cast("dict[str, Any]", read_sealed(path, "group"))
    try:
        shards, columns = document["shards"], document["columns"]
        rows, sizes = (tuple(map(int, shards[name])) for name in ("rows", "size"))
        manifest = GroupManifest(
            folder=folder,
            group=str(document["group"]),
            key=str(document["key"]),
            hash=str(document["hash"]),
            index=str(document["index"]),
            params=dict(document["params"]),
            rows=rows,
            sizes=sizes,
            heads=tuple(map(str, shards["head"])),
            rests=tuple(map(str, shards["rest"])),
            parts={str(name): _parts(column, len(rows)) for name, column in columns.items()},
        )
        _check_group(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise FormatError(
            f"{path}: contradicts itself ({error}). Build the group again."
        ) from error
    return manifest


def _parts(column: Mapping[str, Any], shards: int) -> Parts:
    lengths, offsets, hashes = (column[name] for name in ("length", "offset", "sha256"))
    if {len(lengths), len(offsets), len(hashes)} != {shards}:
        raise ValueError("a column does not list every shard")
    lengths, offsets = np.asarray(lengths), np.asarray(offsets)
    if not lengths.dtype == offsets.dtype == np.int64:
        raise ValueError("lengths and offsets are whole numbers")
    dtype, shape = np.dtype(column["dtype"]).str, tuple(int(n) for n in column["shape"])
    return Parts(dtype, shape, lengths, offsets, tuple(map(str, hashes)))


def _check_group(manifest: GroupManifest) -> None:
    """Check that every dataset is one that the schema knows and lies inside its file."""
    lists = (manifest.rows, manifest.sizes, manifest.heads, manifest.rests)
    if len(set(map(len, lists))) != 1:
        raise ValueError("the lists of shards differ in length")
    if not manifest.rows or min(manifest.rows) < 0:
        raise ValueError("no shards, or negative row counts")
    check_parts(manifest.group, manifest.parts)
    sizes = np.asarray(manifest.sizes, np.int64)
    for name, parts in manifest.parts.items():
        lengths, offsets = parts.lengths, parts.offsets
        row_bytes = Part(0, parts.shape, parts.dtype, "").nbytes
        if min(lengths.min(), offsets.min(), *parts.shape, 0) < 0:
            raise ValueError(f"{name!r} has a negative size")
        if (lengths > sizes // max(row_bytes, 1)).any() or (
            offsets + lengths * row_bytes > sizes
        ).any():
            raise ValueError(f"{name!r} lies outside its file")
    axes = manifest.axis_lengths()
    for column in GROUPS[manifest.group].columns:
        if axes[column.axis].min() < 0:
            raise ValueError("an offsets dataset is empty")
        for name in column.parts():
            extra = column.kind == "offsets" or name.endswith("/offsets")
            lengths = manifest.parts[name].lengths - extra
            inner = "/names/" in name or name.endswith("/bytes")
            if not inner and not np.array_equal(lengths, axes[column.axis]):
                raise ValueError(f"{name!r} has not one row per {column.axis}")
    if content_hash(manifest.parts) != manifest.hash:
        raise ValueError("the content hash is not that of the columns")
