"""One shard file: written whole or not at all, hashed while it is written, described by a sidecar.

The HDF5 structure is laid out first with every dataset contiguous and page-aligned; the data then
go to their offsets and through sha256 in one pass. Equal columns give equal files, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from features.atomic import (
    folder_lock,
    partial_path,
    publish,
    read_sealed,
    write_errors,
    write_sealed,
)
from features.errors import DamagedError, FormatError, StoreError
from features.schema import FORMAT_NAME, FORMAT_VERSION, GROUPS, PAGE, Columns, check_columns

__all__ = [
    "Part",
    "ShardRecord",
    "check_parts",
    "first_data",
    "hash_head",
    "hash_rest",
    "lay_out",
    "read_sidecar",
    "shard_done",
    "shard_file",
    "write_shard",
]


class _Typed(Protocol):
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


_HEADER_BYTES = 512  # of one group or dataset with its attributes
_BLOCK = 1 << 22  # bytes per write and hash step: stays in the cache, large enough for the disk


@dataclass(frozen=True, slots=True)
class Part:
    """Where one dataset lies in its file: byte offset, shape, dtype and sha256 of its bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: str
    sha256: str

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def row(self) -> Part:
        """The same with the shape of one row."""
        return Part(self.offset, self.shape[1:], self.dtype, self.sha256)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What the sidecar says about one shard.

    Attributes:
        group, key, number: which shard it is.   row0, rows: its images.
        size: bytes of the file.   head: CRC-32 of the bytes before the first dataset.
        rest: sha256 of all bytes outside the datasets.
        parts: path of each dataset -> where it lies.
    """

    group: str
    key: str
    number: int
    row0: int
    rows: int
    size: int
    head: str
    rest: str
    parts: Mapping[str, Part]

    def document(self) -> dict[str, object]:
        """Return the record as the sidecar stores it."""
        columns = {
            path: {
                "offset": part.offset,
                "shape": list(part.shape),
                "dtype": part.dtype,
                "sha256": part.sha256,
            }
            for path, part in self.parts.items()
        }
        return {
            "kind": "shard",
            "group": self.group,
            "key": self.key,
            "number": self.number,
            "row0": self.row0,
            "rows": self.rows,
            "size": self.size,
            "head": self.head,
            "rest": self.rest,
            "columns": columns,
        }


def shard_file(folder: Path, number: int) -> Path:
    """Return the path of shard ``number``."""
    return folder / f"{number:05d}.h5"


def read_sidecar(folder: Path, number: int) -> ShardRecord:
    """Read what the sidecar says about a shard.

    Raises:
        FormatError: there is no sidecar, or it contradicts itself.
        DamagedError: its bytes are not those that were written.
    """
    path = shard_file(folder, number).with_suffix(".json")
    document = read_sealed(path, "shard")
    try:
        columns = cast("dict[str, dict[str, object]]", document["columns"])
        parts = {
            str(name): Part(
                int(cast(int, part["offset"])),
                tuple(int(n) for n in cast("list[int]", part["shape"])),
                np.dtype(str(part["dtype"])).str,
                str(part["sha256"]),
            )
            for name, part in columns.items()
        }
        counts = {name: int(cast(int, document[name])) for name in ("row0", "rows", "size")}
        record = ShardRecord(
            group=str(document["group"]),
            key=str(document["key"]),
            number=int(cast(int, document["number"])),
            head=str(document["head"]),
            rest=str(document["rest"]),
            parts=parts,
            **counts,
        )
        check_parts(record.group, {name: part.row for name, part in parts.items()})
        for name, part in parts.items():
            if min(part.offset, *part.shape) < 0 or part.offset + part.nbytes > record.size:
                raise ValueError(f"{name!r} lies outside its file")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{path}: not a shard description ({error!r}). Build it again."
        ) from error
    if record.number != number:
        raise FormatError(f"{path}: describes shard {record.number}, not {number}.")
    return record


def check_parts(group: str, parts: Mapping[str, _Typed]) -> None:
    """Check that datasets are those of the schema, with its dtypes and numbers of axes.

    Raises: ValueError: they are not; the message is for a sealed file that contradicts itself.
    """
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}")
    expected = {}
    for column in GROUPS[group].columns:
        for name, dtypes in column.parts().items():
            expected[name] = (dtypes, len(column.shape) if name.count("/") < 2 else 0)
    if set(expected) != set(parts):
        raise ValueError(f"datasets {sorted(set(expected) ^ set(parts))[:3]} do not fit")
    for name, part in parts.items():
        dtypes, axes = expected[name]
        if part.dtype not in dtypes or len(part.shape) != axes:
            raise ValueError(f"{name!r} has dtype {part.dtype} and row shape {part.shape}")


def shard_done(folder: Path, number: int, key: str) -> ShardRecord | None:
    """Return the record of a finished shard of this key, None where it must be built."""
    path = shard_file(folder, number)
    try:
        record = read_sidecar(folder, number)
        size = path.stat().st_size
    except (StoreError, OSError):
        return None
    return record if record.key == key and record.size == size else None


def write_shard(
    folder: Path,
    number: int,
    columns: Columns,
    *,
    group: str,
    key: str,
    row0: int,
    rows: int,
) -> ShardRecord:
    """Write one shard, or adopt it where it is already there under the same key.

    Args:
        folder: folder of the variant; made when missing.
        number: position of the shard.
        columns: datasets as ``features.pack`` makes them.
        group: column group, a name of ``schema.GROUPS``.
        key: content key of the variant.
        row0: first image row of the shard.
        rows: images in the shard.

    Raises:
        FormatError: the columns do not fit the schema.
        WriteError: disk full, permission denied; nothing is left behind.
    """
    done = shard_done(folder, number, key)
    if done is not None:
        return done
    check_columns(group, columns, rows)
    path = shard_file(folder, number)
    with write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        try:
            with _hdf5_errors():
                offsets = lay_out(partial, columns, group, key)
            hashes = _write_data(partial, columns, offsets)
            parts = {
                name: Part(offsets[name], data.shape, data.dtype.str, hashes[name])
                for name, data in columns.items()
            }
            size = partial.stat().st_size
            head = hash_head(partial, first_data(parts.values(), size))
            rest = hash_rest(partial, size, parts.values())
            record = ShardRecord(group, key, number, row0, rows, size, head, rest, parts)
            with folder_lock(folder):
                done = shard_done(folder, number, key)
                if done is not None:
                    return done  # another builder was faster: its shard is as good as ours
                path.with_suffix(".json").unlink(missing_ok=True)
                publish(partial, path)
                write_sealed(path.with_suffix(".json"), record.document())
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    return record


@contextlib.contextmanager
def _hdf5_errors() -> Iterator[None]:
    """Turn the RuntimeError that HDF5 raises when closing a file fails into its OSError."""
    try:
        yield
    except RuntimeError as error:
        code = re.search(r"errno = (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error


def lay_out(path: Path, columns: Columns, group: str, key: str) -> dict[str, int]:
    """Create the HDF5 structure without data; return the offset of every dataset."""
    import h5py

    offsets = {}
    names = {name.rsplit("/", cut)[0] for name in columns for cut in range(3)}
    kinds = {
        column.name: "array" if column.kind == "dense" else column.kind
        for column in GROUPS[group].columns
    }
    # v110: a file that was not closed cleanly can never be opened by mistake
    with h5py.File(
        path,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=PAGE,
        alignment_interval=PAGE,
        meta_block_size=_HEADER_BYTES * len(names),  # headers together, before the data
    ) as file:
        file.attrs.update(
            {
                "encoding-type": f"{FORMAT_NAME}-{group}",
                "encoding-version": FORMAT_VERSION,
                "format": FORMAT_NAME,
                "format_version": FORMAT_VERSION,
                "group": group,
                "key": key,
            }
        )
        for name in dict.fromkeys(path.split("/")[0] for path in columns if "/" in path):
            file.create_group(name).attrs.update(
                {"encoding-type": kinds[name], "encoding-version": FORMAT_VERSION}
            )
        for name in [path.rpartition("/")[0] for path in columns if path.count("/") == 2]:
            if name not in file:
                file.create_group(name).attrs.update(
                    {"encoding-type": "text", "encoding-version": FORMAT_VERSION}
                )
        for name, data in columns.items():
            create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            create.set_layout(h5py.h5d.CONTIGUOUS)
            create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            create.set_obj_track_times(False)  # equal columns, equal bytes
            kind = h5py.h5t.py_create(data.dtype, logical=True)
            space = h5py.h5s.create_simple(data.shape)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=create)
            offsets[name] = dataset.get_offset() or 0
            attributes = h5py.Dataset(dataset).attrs
            attributes["encoding-type"] = kinds.get(name, "array")
            attributes["encoding-version"] = FORMAT_VERSION
    return offsets


def _write_data(path: Path, columns: Columns, offsets: Mapping[str, int]) -> dict[str, str]:
    """Put every dataset at its offset; return the sha256 of each."""
    hashes = {}
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for name, data in columns.items():
            digest = hashlib.sha256()
            raw = np.ascontiguousarray(data).data.cast("B") if data.size else memoryview(b"")
            at = 0
            while at < len(raw):
                block = raw[at : at + _BLOCK]
                digest.update(block)
                done = 0
                while done < len(block):
                    done += os.pwrite(descriptor, block[done:], offsets[name] + at + done)
                at += len(block)
            hashes[name] = digest.hexdigest()
    finally:
        os.close(descriptor)
    return hashes


def first_data(parts: Iterable[Part], size: int) -> int:
    """Return where the first dataset begins: before it stand the HDF5 headers."""
    return min((part.offset for part in parts if part.nbytes), default=size)


def hash_head(path: Path | str, stop: int) -> str:
    """Return the CRC-32 of a file's bytes before ``stop``: checked whenever a column is mapped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return f"{zlib.crc32(os.pread(descriptor, stop, 0)):08x}"
    finally:
        os.close(descriptor)


def hash_rest(path: Path, size: int, parts: Iterable[Part]) -> str:
    """Return the sha256 of all bytes of a file that belong to no dataset: headers and gaps.

    Raises: DamagedError: the file is shorter than ``size``, or datasets overlap.
    """
    spans = sorted((part.offset, part.offset + part.nbytes) for part in parts if part.nbytes)
    digest = hashlib.sha256()
    at = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start, stop in [*spans, (size, size)]:
            if start < at:
                raise DamagedError(f"{path}: datasets overlap at byte {start}.")
            while at < start:
                block = os.pread(descriptor, min(start - at, _BLOCK), at)
                if not block:
                    raise DamagedError(f"{path}: ends at byte {at}, {size} were written.")
                digest.update(block)
                at += len(block)
            at = stop
    finally:
        os.close(descriptor)
    return digest.hexdigest()
