"""Manifests: what makes a folder of shards a group, and groups a store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from features.atomic import read_sealed, write_sealed
from features.errors import DamagedError, FormatError, MismatchError, MissingInput, UsageError
from features.keys import KEY_DIGITS, canonical_json
from features.schema import GROUPS, axis_lengths
from features.shard import Part, ShardRecord, check_parts, read_sidecar

__all__ = [
    "GroupManifest",
    "bind_store",
    "finish_group",
    "group_done",
    "image_index",
    "read_group",
    "read_store_manifest",
    "store_manifest_path",
]

_PLAIN = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*")


@dataclass(frozen=True)
class GroupManifest:
    """A finished group: parameters and the place of every dataset of every shard.

    Attributes:
        folder: where the shards lie.   group, key: what they are.
        hash: content hash, over all columns; equal contents have equal hashes.
        index: hash of the image index whose rows the group follows, "" when not known.
        params: parameters and provenance, for people.
        rows, sizes, rests: per shard: images, bytes of the file, sha256 outside the datasets.
        parts: per dataset, one ``Part`` per shard.
    """

    folder: Path
    group: str
    key: str
    hash: str
    index: str
    params: Mapping[str, Any]
    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    rests: tuple[str, ...]
    parts: Mapping[str, tuple[Part, ...]]

    @property
    def path(self) -> Path:
        """The manifest's file."""
        return self.folder / "manifest.json"

    def axis_lengths(self) -> dict[str, list[int]]:
        """Return the length of every axis in every shard."""
        lengths: dict[str, list[int]] = {}
        for shard, rows in enumerate(self.rows):
            sizes = {name: parts[shard].shape[0] for name, parts in self.parts.items()}
            for axis, length in axis_lengths(self.group, sizes, rows).items():
                lengths.setdefault(axis, []).append(length)
        return lengths


def _hash_of(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def content_hash(parts: Mapping[str, Sequence[Part]]) -> str:
    """Return the hash of a group's contents: sha256 over the sorted hashes of its columns."""
    columns = sorted(
        [name, kept[0].dtype, kept[0].shape[1:], _hash_of(part.sha256 for part in kept)]
        for name, kept in parts.items()
    )
    return hashlib.sha256(canonical_json(columns).encode()).hexdigest()


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

    Args:
        folder: the group's folder.
        group: name of the group.
        key: content key.
        params: parameters and provenance to remember (JSON values).
        shards: records in order, or their number (the sidecars are read then).
        index: ``image_index`` of the index group whose rows this group follows.

    Returns:
        The manifest as written.

    Raises:
        FormatError: a shard is missing, belongs to another key, or the shapes differ.
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
        row0 += record.rows
    if not records:
        raise UsageError(f"{folder}: a group needs at least one shard; the data set has no images.")
    columns: dict[str, object] = {}
    parts: dict[str, list[Part]] = {}
    for name in sorted(set().union(*(record.parts for record in records))):
        try:
            parts[name] = kept = [record.parts[name] for record in records]
        except KeyError:
            raise FormatError(f"{folder}: a shard lacks the dataset {name!r}.") from None
        kinds = sorted({(part.dtype, part.shape[1:]) for part in kept})
        if len(kinds) > 1:
            raise FormatError(f"{folder}: the shards disagree about {name!r}: {kinds}.")
        columns[name] = {
            "dtype": kinds[0][0],
            "shape": list(kinds[0][1]),
            "length": [part.shape[0] for part in kept],
            "offset": [part.offset for part in kept],
            "sha256": [part.sha256 for part in kept],
        }
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
            "rest": [record.rest for record in records],
        },
        "columns": columns,
    }
    path = folder / "manifest.json"
    write_sealed(path, document)
    return document


def group_done(folder: Path, key: str) -> bool:
    """Say whether a group is finished: its manifest is whole and carries this key."""
    try:
        return read_group(folder).key == key
    except (FormatError, DamagedError):
        return False


def image_index(folder: Path) -> str:
    """Return the hash of the image ids of an index group; groups of one store share it."""
    return _image_index(read_group(folder))


def _image_index(group: GroupManifest) -> str:
    names = ("image_id/bytes", "image_id/offsets")
    return _hash_of(part.sha256 for name in names for part in group.parts[name])


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
            rests=tuple(map(str, shards["rest"])),
            parts={str(name): _parts(column, len(rows)) for name, column in columns.items()},
        )
        _check_group(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise FormatError(
            f"{path}: contradicts itself ({error}). Build the group again."
        ) from error
    return manifest


def _parts(column: Mapping[str, Any], shards: int) -> tuple[Part, ...]:
    dtype, shape = np.dtype(column["dtype"]).str, tuple(int(n) for n in column["shape"])
    fields = [column[name] for name in ("length", "offset", "sha256")]
    if any(len(field) != shards for field in fields):
        raise ValueError("a column does not list every shard")
    return tuple(
        Part(int(offset), (int(length), *shape), dtype, str(sha256))
        for length, offset, sha256 in zip(*fields, strict=True)
    )


def _check_group(manifest: GroupManifest) -> None:
    """Check that every dataset is one that the schema knows and lies inside its file."""
    if not (len(manifest.sizes) == len(manifest.rests) == len(manifest.rows)):
        raise ValueError("the lists of shards differ in length")
    if not manifest.rows or min(manifest.rows) < 0:
        raise ValueError("no shards, or negative row counts")
    check_parts(manifest.group, manifest.parts, manifest.sizes)
    for lengths in manifest.axis_lengths().values():
        if min(lengths) < 0:
            raise ValueError("an offsets dataset is empty")
    if content_hash(manifest.parts) != manifest.hash:
        raise ValueError("the content hash is not that of the columns")


def bind_store(
    store_dir: Path,
    dataset: str,
    groups: Mapping[str, Path],
    summary: Mapping[str, object],
) -> Path:
    """Bind one variant of each group into a store and make it the latest.

    Args:
        store_dir: the store's folder; every group lies directly in it.
        dataset: name of the data set, the first part of the manifest's name.
        groups: name -> folder. ``index`` must be there; a second variant of a group is named
            ``group@variant``, for example ``regions@clip``.
        summary: counts and times of the build, for people; not part of the hash.

    Returns:
        Path of the store manifest.

    Raises:
        MismatchError: a group follows another image index.
        UsageError: a name that cannot be used, or no index.
    """
    if "index" not in groups:
        raise UsageError("a store needs the group 'index'; the others follow its rows.")
    if not _PLAIN.fullmatch(dataset):
        raise UsageError(f"data set name {dataset!r}: use letters, digits, '.', '_' and '-'.")
    manifests = {name: read_group(folder) for name, folder in groups.items()}
    check_binding(manifests)
    for name, folder in groups.items():
        if folder.resolve().parent != store_dir.resolve():
            raise UsageError(f"group {name!r}: {folder} does not lie in the store {store_dir}.")
    entries = {
        name: {"folder": m.folder.name, "key": m.key, "hash": m.hash, "shards": len(m.rows)}
        for name, m in sorted(manifests.items())
    }
    keys = {name: m.key for name, m in manifests.items()}
    hashes = sorted([name, m.hash] for name, m in manifests.items())
    key = hashlib.sha256(canonical_json({"dataset": dataset, "groups": keys}).encode()).hexdigest()
    path = store_dir / f"{dataset}-{key[:KEY_DIGITS]}.json"
    write_sealed(
        path,
        {
            "kind": "store",
            "dataset": dataset,
            "key": key,
            "hash": hashlib.sha256(canonical_json(hashes).encode()).hexdigest(),
            "images": sum(manifests["index"].rows),
            "groups": entries,
            "summary": dict(summary),
        },
    )
    write_sealed(store_dir / "latest.json", {"kind": "latest", "manifest": path.name})
    return path


def check_binding(manifests: Mapping[str, GroupManifest]) -> None:
    """Check that groups follow one image index and agree about the length of shared axes.

    Raises: MismatchError: they do not; joining them would pair rows of different images.
    """
    first = manifests["index"]
    identity = _image_index(first)
    lengths = {name: manifest.axis_lengths() for name, manifest in manifests.items()}
    for name, manifest in manifests.items():
        if name.partition("@")[0] != manifest.group:
            raise MismatchError(f"{manifest.path}: holds {manifest.group!r}, bound as {name!r}.")
        if manifest.rows != first.rows or manifest.index not in ("", identity):
            raise MismatchError(
                f"{manifest.path}: made for another image index than {first.path}; joining them "
                "would pair rows of different images. Build the group for this index."
            )
        partners = {"caption": "index"}
        if manifest.group == "text":
            own = name.replace("text", "tokens", 1)
            partners["token"] = own if own in manifests else "tokens"
        for axis, partner in partners.items():
            if axis not in lengths[name] or partner not in lengths:
                continue
            if lengths[name][axis] != lengths[partner][axis]:
                raise MismatchError(
                    f"{manifest.path}: {name!r} and {partner!r} differ in the number of {axis} "
                    "rows; they were made from different captions or parses."
                )


def store_manifest_path(path: Path) -> Path:
    """Return the store manifest that a path stands for: itself, or the latest of a folder.

    Raises: FormatError: there is no store.
    """
    if path.is_dir():
        latest = path / "latest.json"
        if not latest.exists():
            raise FormatError(f"{path}: not a store (no latest.json). Build one first.")
        name = read_sealed(latest, "latest").get("manifest")
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise FormatError(f"{latest}: names no manifest of this folder.")
        return path / name
    if not path.exists():
        raise MissingInput(f"{path}: no such store. Check the path, or build it first.")
    return path


def read_store_manifest(path: Path) -> dict[str, Any]:
    """Read a store manifest and check its shape.

    Raises: FormatError, DamagedError: as for every sealed file.
    """
    document = cast("dict[str, Any]", read_sealed(path, "store"))
    try:
        for name in ("dataset", "key", "hash"):
            if not isinstance(document[name], str):
                raise TypeError(f"{name} is no string")
        groups = document["groups"]
        if "index" not in groups or not isinstance(document["images"], int):
            raise ValueError("no image index")
        for name, entry in groups.items():
            if name.partition("@")[0] not in GROUPS or not _PLAIN.fullmatch(name):
                raise ValueError(f"unknown group {name!r}")
            if not _PLAIN.fullmatch(entry["folder"]) or not isinstance(entry["hash"], str):
                raise ValueError(f"group {name!r} names no folder of this store")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path}: contradicts itself ({error}). Build the store again."
        ) from error
    return document
