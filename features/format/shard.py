"""One shard file: written whole or not at all, hashed while it is written.

The HDF5 structure is laid out first with every dataset contiguous and page-aligned; the data then
go to their offsets and through sha256 in one pass. Equal columns give equal files, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from features.errors import DamagedError
from features.format.files import folder_lock, partial_path, publish, write_errors, write_sealed
from features.format.group import check_listed
from features.format.schema import FORMAT_NAME, FORMAT_VERSION, GROUPS, PAGE, Columns, check_columns
from features.format.sidecar import Part, ShardRecord, shard_done, shard_file

__all__ = ["first_data", "hash_head", "hash_rest", "lay_out", "write_shard"]

_HEADER_BYTES = 512  # of one group or dataset with its attributes
_BLOCK = 1 << 22  # bytes per write and hash step: stays in the cache, large enough for the disk


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
        columns: datasets as ``features.format.pack`` makes them.
        group: column group, a name of ``schema.GROUPS``.
        key: content key of the variant.
        row0: first image row of the shard.
        rows: images in the shard.

    Raises:
        FormatError: the columns do not fit the schema.
        MismatchError: the group is finished and lists other contents for this shard.
        NewerFormatError: a newer release wrote the shard or the group.
        WriteError: disk full, permission denied; nothing is left behind.
    """
    images = range(row0, row0 + rows)
    done = shard_done(folder, number, key, images)
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
                done = shard_done(folder, number, key, images)
                if done is not None:
                    return done  # another builder was faster: its shard is as good as ours
                check_listed(folder, record)
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
