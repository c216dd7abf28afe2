"""Groups: the shards of one column group under one content key, and the manifest that lists them.

A ``Group`` names a variant and writes it shard by shard. ``Group.finish`` writes the manifest: a
folder without one is an unfinished group. The manifest holds one list per field, so that a group
of thousands of shards is read in milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from features.format.files import (
    folder_lock,
    partial_path,
    publish,
    read_sealed,
    sweep,
    write_errors,
    write_sealed,
)
from features.format.hdf5 import write_file
from features.format.keys import KEY_DIGITS, canonical_json, content_key, folder_name, hash_json
from features.format.record import Parts, ShardRecord, check_kinds
from features.format.schema import GROUPS, Columns, axis_lengths, check_columns
from features.format.shard import Shard, file_names

_CONFLICT = (
    "Build into another folder; or, if the old contents are not needed, delete this manifest and "
    "build again."
)


@dataclass(frozen=True)
class GroupManifest:
    """The manifest of a finished group: its parameters and the parts of every shard.

    Attributes:
        folder: folder of the shards.   group, key: name of the column group and content key.
        hash: hash of all columns; equal contents have equal hashes.
        index: ``image_index`` of the index whose rows the group follows, "" if unknown.
        params: parameters and provenance, for information.
        rows, sizes: per shard, the number of images and the size of the file in bytes.
        heads: per shard, the CRC-32 of the bytes before the first dataset.
        rests: per shard, the sha256 of the bytes outside the datasets.
        parts: dataset path -> its part in every shard.
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
        """The manifest file."""
        return self.folder / "manifest.json"

    @property
    def image_index(self) -> str:
        """Hash of the image ids of an index group; all groups of a store follow the same one."""
        names = ("image_id/bytes", "image_id/offsets")
        return _hash_of(sha256 for name in names for sha256 in self.parts[name].hashes)

    @property
    def captions(self) -> str:
        """Hash of the captions of an index group: their ids, texts and images."""
        names = ("caption_id/bytes", "caption_id/offsets", "caption/bytes", "caption/offsets")
        parts = [self.parts[name] for name in (*names, "caption_offsets")]
        return _hash_of(sha256 for part in parts for sha256 in part.hashes)

    @functools.cached_property
    def _starts(self) -> Sequence[int]:
        """Per shard, its first image row."""
        return [0, *itertools.accumulate(self.rows)]

    def record(self, number: int) -> ShardRecord:
        """Return the record of a shard as the manifest lists it."""
        row0 = self._starts[number]
        parts = {name: parts[number] for name, parts in self.parts.items()}
        size, head, rest = self.sizes[number], self.heads[number], self.rests[number]
        return ShardRecord(
            self.group, self.key, number, row0, self.rows[number], size, head, rest, parts
        )

    def files_exist(self) -> bool:
        """Return True when every shard file exists with the size that was written."""
        try:  # strings instead of paths: an idle build asks for thousands of files
            return all(
                os.stat(f"{self.folder}/{file_names(k)[0]}").st_size == size  # noqa: PTH116
                for k, size in enumerate(self.sizes)
            )
        except OSError:
            return False

    def axis_lengths(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the length of every axis in every shard, (shards,) int64."""
        lengths = {name: parts.lengths for name, parts in self.parts.items()}
        return axis_lengths(self.group, lengths, np.asarray(self.rows, np.int64))


@dataclass(frozen=True)
class Group:
    """One variant of a column group: a folder of shards that share a content key.

    Attributes:
        name: column group, a name of ``schema.GROUPS``.
        key: content key.   folder: ``<store>/<name>-<first digits of key>``.
        params: everything the key was made from, kept in the manifest for information.
    """

    name: str
    key: str
    folder: Path
    params: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        store_dir: Path,
        name: str,
        version: str,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        stage: str = "",
    ) -> Group:
        """Return the variant with these parameters and inputs; nothing is written.

        Args:
            store_dir: folder of the store.
            name: column group.
            version: version of the stage that writes it.
            parameters: everything that changes the contents, JSON values only.
            inputs: name -> key or hash of each input.
            stage: name of the stage in the key; the column group by default.
        """
        made = {"stage": stage or name, "version": version}
        params = {**made, "parameters": dict(parameters), "inputs": dict(inputs)}
        key = content_key(stage or name, version, parameters, inputs)
        return cls(name, key, store_dir / folder_name(name, key), params)

    @classmethod
    def open(cls, folder: Path) -> Group:
        """Return the finished group in a folder.

        Raises: FormatError, DamagedError: as ``read_group``.
        """
        manifest = read_group(folder)
        return cls(manifest.group, manifest.key, folder, manifest.params)

    def shard(self, number: int) -> Shard:
        """Return shard ``number``, whether it exists yet or not."""
        return Shard(self.folder, number)

    def shards(self) -> list[Shard]:
        """Return the shards of the finished group, in order.

        Raises: FormatError, DamagedError: as ``read_group``.
        """
        return [self.shard(number) for number in range(len(read_group(self.folder).rows))]

    def finished(self) -> bool:
        """Return True when the manifest carries this key and every shard file exists.

        Reads one small file and the sizes of the others, none of their contents.

        Raises: NewerFormatError: a newer release wrote it; building it here would replace that.
        """
        try:
            stat = (self.folder / "manifest.json").stat()
        except OSError:
            return False
        manifest = _unchanged(self, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        return manifest is not None and manifest.files_exist()

    def absent(self, shards: int) -> list[int]:
        """Return those of ``shards`` shards that lack a file: the folder is listed, nothing read.

        Of ten thousand shards, this takes 10 ms.
        """
        try:
            present = set(os.listdir(self.folder))  # noqa: PTH208  # paths take ten times as long
        except FileNotFoundError:
            present = set()
        return [number for number in range(shards) if not present.issuperset(file_names(number))]

    def missing(self, ranges: Sequence[range]) -> list[int]:
        """Return the shards that are not finished, given the image rows of every shard.

        Absent ones cost nothing, a finished one 0.1 ms, as its sidecar is read.

        Raises: NewerFormatError: a newer release wrote one.
        """
        absent = set(self.absent(len(ranges)))
        return [
            number
            for number, rows in enumerate(ranges)
            if number in absent or not self.shard(number).finished(self.key, rows)
        ]

    def prepare(self) -> None:
        """Create the folder and delete partial files of processes that have died.

        Raises: WriteError: permission denied, disk full.
        """
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # the folder of another user
            os.utime(self.folder)  # gc keeps what is at work; the first shard may take long
        sweep(self.folder)

    def write(self, number: int, rows: range, columns: Columns) -> ShardRecord:
        """Write one shard, or keep it where it is finished already.

        Args:
            number: position of the shard.
            rows: its image rows.
            columns: its datasets, as ``codec.pack_*`` return them.

        Returns:
            The record of the shard on disk.

        Raises:
            FormatError: the columns do not match the schema.
            MismatchError: the manifest lists other contents for this shard.
            NewerFormatError: a newer release wrote the shard or the group.
            WriteError: disk full, permission denied; nothing is left behind.
        """
        shard = self.shard(number)
        if done := shard.finished(self.key, rows):
            return done
        check_columns(self.name, columns, len(rows))
        with write_errors(shard.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = partial_path(shard.path)
            try:
                record = write_file(
                    partial, columns, group=self.name, key=self.key, number=number, rows=rows
                )
                with folder_lock(self.folder):
                    if done := shard.finished(self.key, rows):
                        return done  # another process was faster; equal keys, equal contents
                    self._check_listed(record)
                    shard.sidecar.unlink(missing_ok=True)
                    publish(partial, shard.path)
                    write_sealed(shard.sidecar, record.document())
            finally:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
        return record

    def finish(
        self,
        shards: int | Sequence[ShardRecord],
        *,
        index: str = "",
        built: Mapping[str, object] | None = None,
    ) -> GroupManifest:
        """Write the manifest, the last step of a stage.

        An existing manifest that says the same is left alone: the folder may be read-only by now.

        Args:
            shards: number of shards, whose sidecars are read, or their records in order.
            index: ``image_index`` of the index group whose rows this group follows.
            built: when and how the group was built, for information.

        Returns:
            The manifest in the folder.

        Raises:
            FormatError: a shard is missing, has another key, or its shapes differ.
            StageError: the file of a shard has disappeared since it was written.
            MismatchError: the group is finished with another index or other contents.
            NewerFormatError: a newer release finished it.
            WriteError: the manifest cannot be written.
        """
        if isinstance(shards, int):
            shards = [self.shard(number).record for number in range(shards)]
        self._check_sequence(shards)
        parts = _join_parts(self.folder, shards)
        params = dict(self.params) if built is None else {**self.params, "built": dict(built)}
        document: dict[str, Any] = {
            "kind": "group",
            "group": self.name,
            "key": self.key,
            "hash": content_hash(parts),
            "index": index,
            "params": params,
            "shards": {
                field: [getattr(record, field) for record in shards]
                for field in ("rows", "size", "head", "rest")
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
        before = self._manifest()
        if before is not None:
            if (before.index, before.hash) != (index, document["hash"]):
                raise MismatchError(
                    f"{before.path}: finished with index {before.index[:KEY_DIGITS]!r} and hash "
                    f"{before.hash[:KEY_DIGITS]}, not {index[:KEY_DIGITS]!r} and "
                    f"{document['hash'][:KEY_DIGITS]}; stores are bound to it. {_CONFLICT}"
                )
            if _same(before, document):
                return before
        write_sealed(self.folder / "manifest.json", document)
        return read_group(self.folder)

    def _manifest(self) -> GroupManifest | None:
        """Return the manifest if there is a usable one with this key."""
        try:
            manifest = read_group(self.folder)
        except NewerFormatError:
            raise
        except StoreError:
            return None
        return manifest if manifest.key == self.key else None

    def _check_sequence(self, records: Sequence[ShardRecord]) -> None:
        if not records:
            raise UsageError(f"{self.folder}: a group needs at least one shard; no images given.")
        row0 = 0
        for number, record in enumerate(records):
            wanted = (number, self.name, self.key, row0)
            if (record.number, record.group, record.key, record.row0) != wanted:
                raise FormatError(
                    f"{self.folder}: shard {number} is {record.group!r} "
                    f"{record.key[:KEY_DIGITS]} from row {record.row0}, expected {self.name!r} "
                    f"{self.key[:KEY_DIGITS]} from row {row0}."
                )
            shard = self.shard(number)
            if not shard.has_size(record.size):
                raise StageError(
                    f"{shard.path}: the file is missing, or its size is not the {record.size} "
                    "bytes that were written. Build again; the other shards are kept."
                )
            row0 += record.rows

    def _check_listed(self, record: ShardRecord) -> None:
        """Check that a new shard equals the one that the manifest lists, if there is a manifest.

        Raises:
            MismatchError: it differs; stores and runs are bound to the old contents.
            NewerFormatError: a newer release finished the group.
        """
        manifest = self._manifest()
        if manifest is None:
            return
        differs = "image rows"
        if record.number < len(manifest.rows):
            listed = manifest.record(record.number)
            if listed.image_rows == record.image_rows:
                made = {name: part.sha256 for name, part in record.parts.items()}
                old = {name: part.sha256 for name, part in listed.parts.items()}
                differs = next((n for n in made if made[n] != old.get(n)), "")
        if differs:
            raise MismatchError(
                f"{manifest.path}: the new shard {record.number} differs from the listed one "
                f"({differs!r}); stores are bound to that. {_CONFLICT}"
            )


def _join_parts(folder: Path, records: Sequence[ShardRecord]) -> dict[str, Parts]:
    """Return the parts of every dataset over all shards.

    Raises: FormatError: a shard lacks a dataset, or the shards differ in dtype or row shape.
    """
    joined: dict[str, Parts] = {}
    for name in sorted(set().union(*(record.parts for record in records))):
        try:
            parts = [record.parts[name] for record in records]
        except KeyError:
            raise FormatError(f"{folder}: a shard lacks the dataset {name!r}.") from None
        kinds = sorted({(part.dtype, part.shape[1:]) for part in parts})
        if len(kinds) > 1:
            raise FormatError(
                f"{folder}: the shards differ in dtype or shape of {name!r}: {kinds}."
            )
        joined[name] = Parts(
            *kinds[0],
            lengths=np.array([part.shape[0] for part in parts]),
            offsets=np.array([part.offset for part in parts]),
            hashes=[part.sha256 for part in parts],
        )
    return joined


def _hash_of(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def content_hash(parts: Mapping[str, Parts]) -> str:
    """Return the hash of a group's contents: sha256 of the sorted hashes of its columns."""
    columns = sorted(
        [name, kept.dtype, kept.shape, _hash_of(kept.hashes)] for name, kept in parts.items()
    )
    return hash_json(columns)


def _same(before: GroupManifest, document: Mapping[str, Any]) -> bool:
    """Compare a manifest of equal contents with a document, apart from when it was built."""
    files = {"rows": before.rows, "size": before.sizes, "head": before.heads, "rest": before.rests}
    told = [{**params, "built": None} for params in (before.params, document["params"])]
    return canonical_json([files, told[0]]) == canonical_json([document["shards"], told[1]])


@functools.lru_cache(maxsize=8)
def _unchanged(group: Group, *_stamp: int) -> GroupManifest | None:
    """Return the manifest of a group; Luigi asks several times whether a group is finished."""
    return group._manifest()


def read_group(folder: Path) -> GroupManifest:
    """Read the manifest of a group.

    Raises:
        FormatError: no manifest, a newer format, or one that contradicts itself.
        DamagedError: its bytes differ from what was written.
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
    """Check that every dataset is part of the schema and lies inside its file."""
    lists = (manifest.rows, manifest.sizes, manifest.heads, manifest.rests)
    if len(set(map(len, lists))) != 1:
        raise ValueError("the lists of shards differ in length")
    if not manifest.rows or min(manifest.rows) < 0:
        raise ValueError("no shards, or negative row counts")
    kinds = ((name, parts.dtype, len(parts.shape)) for name, parts in manifest.parts.items())
    check_kinds(manifest.group, tuple(kinds))
    sizes = np.asarray(manifest.sizes, np.int64)
    for name, parts in manifest.parts.items():
        lengths, offsets, row_bytes = parts.lengths, parts.offsets, parts.row_bytes
        if min(lengths.min(), offsets.min(), *parts.shape, 0) < 0:
            raise ValueError(f"{name!r} has a negative size")
        if (lengths > sizes // max(row_bytes, 1)).any() or (
            offsets + lengths * row_bytes > sizes
        ).any():
            raise ValueError(f"{name!r} lies outside its file")
    axes = manifest.axis_lengths()
    for column in GROUPS[manifest.group].columns:
        if column.optional and column.name not in manifest.parts:
            continue
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
