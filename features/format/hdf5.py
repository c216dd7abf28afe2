"""The HDF5 file of a shard: its layout, its bytes and their hashes.

The HDF5 structure is laid out first, with every dataset contiguous and page-aligned; the data are
then written at their offsets and hashed in the same pass. Equal columns give identical files.
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
import numpy.typing as npt

from features.errors import DamagedError
from features.format.files import closing, unreadable
from features.format.record import Part, ShardRecord
from features.format.schema import FORMAT_NAME, FORMAT_VERSION, GROUPS, PAGE, Columns

REPAIR = "Repair it: python -m features verify --repair STORE, then build again."

_HEADER_BYTES = 512  # of one group or dataset with its attributes
_READ = 1 << 30  # bytes per read; Linux reads less than 2 GiB at once
BLOCK = 1 << 22  # bytes per write and hash step: fits the cache, large enough for the disk


def write_file(
    path: Path, columns: Columns, *, group: str, key: str, number: int, rows: range
) -> ShardRecord:
    """Write the HDF5 file of a shard and return its record.

    Raises: OSError: the file cannot be written.
    """
    with _hdf5_errors():
        offsets = lay_out(path, columns, group, key)
    hashes = _write_data(path, columns, offsets)
    parts = {
        name: Part(offsets[name], data.shape, data.dtype.str, hashes[name])
        for name, data in columns.items()
    }
    return record_of(path, parts, group=group, key=key, number=number, rows=rows)


def record_of(
    path: Path, parts: Mapping[str, Part], *, group: str, key: str, number: int, rows: range
) -> ShardRecord:
    """Return the record of a shard file whose datasets are known; hashes all other bytes."""
    size = path.stat().st_size
    stop = min((part.offset for part in parts.values() if part.nbytes), default=size)
    with closing(os.open(path, os.O_RDONLY)) as descriptor:
        head = f"{zlib.crc32(os.pread(descriptor, stop, 0)):08x}"
        rest = hash_rest(descriptor, path, size, (part.span for part in parts.values()))
    return ShardRecord(group, key, number, rows.start, len(rows), size, head, rest, parts)


@contextlib.contextmanager
def _hdf5_errors() -> Iterator[None]:
    """Turn the RuntimeError that h5py raises when closing a file fails into an OSError."""
    try:
        yield
    except RuntimeError as error:
        code = re.search(r"errno = (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error


def lay_out(path: Path, columns: Columns, group: str, key: str) -> dict[str, int]:
    """Create the HDF5 structure without data; return the offset of every dataset."""
    import h5py  # loads libhdf5, which readers of a store do not need

    offsets = {}
    names = {name.rsplit("/", cut)[0] for name in columns for cut in range(3)}
    kinds = {
        column.name: "array" if column.kind == "dense" else column.kind
        for column in GROUPS[group].columns
    }
    # v110 marks a file that was not closed cleanly, so that it cannot be opened by mistake
    with h5py.File(
        path,
        "w",
        locking=False,  # no other process knows the name; some file systems have no locks
        libver=("v110", "v110"),
        alignment_threshold=PAGE,
        alignment_interval=PAGE,
        meta_block_size=_HEADER_BYTES * len(names),  # headers together, before the data
    ) as file:
        file.attrs.update(
            _encoding(f"{FORMAT_NAME}-{group}"),
            format=FORMAT_NAME,
            format_version=FORMAT_VERSION,
            group=group,
            key=key,
        )
        for name in dict.fromkeys(path.split("/")[0] for path in columns if "/" in path):
            file.create_group(name).attrs.update(_encoding(kinds[name]))
        for name in [path.rpartition("/")[0] for path in columns if path.count("/") == 2]:
            if name not in file:
                file.create_group(name).attrs.update(_encoding("text"))
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
            h5py.Dataset(dataset).attrs.update(_encoding(kinds.get(name, "array")))
    return offsets


def _encoding(kind: str) -> dict[str, str | int]:
    return {"encoding-type": kind, "encoding-version": FORMAT_VERSION}


def _write_data(path: Path, columns: Columns, offsets: Mapping[str, int]) -> dict[str, str]:
    """Write every dataset at its offset; return the sha256 of each."""
    hashes = {}
    with closing(os.open(path, os.O_WRONLY)) as descriptor:
        for name, data in columns.items():
            digest = hashlib.sha256()
            raw = np.ascontiguousarray(data).data.cast("B") if data.size else memoryview(b"")
            at = 0
            while at < len(raw):
                block = raw[at : at + BLOCK]
                digest.update(block)
                done = 0
                while done < len(block):
                    done += os.pwrite(descriptor, block[done:], offsets[name] + at + done)
                at += len(block)
            hashes[name] = digest.hexdigest()
    return hashes


def hash_rest(
    descriptor: int, path: Path | str, size: int, spans: Iterable[tuple[int, int]]
) -> str:
    """Return the sha256 of all bytes of an open file outside its datasets: headers and gaps.

    Args:
        descriptor, path, size: the file, its name for messages, and its expected size.
        spans: first byte and end of every dataset, in any order.

    Raises: DamagedError: the file is shorter than ``size``, or datasets overlap.
    """
    digest = hashlib.sha256()
    at = 0
    for start, stop in [*sorted(span for span in spans if span[0] < span[1]), (size, size)]:
        if start < at:
            raise DamagedError(f"{path}: datasets overlap at byte {start}.")
        while at < start:
            block = os.pread(descriptor, min(start - at, BLOCK), at)
            if not block:
                raise DamagedError(f"{path}: ends at byte {at}, {size} were written.")
            digest.update(block)
            at += len(block)
        at = stop
    return digest.hexdigest()


def open_file(path: Path | str, size: int) -> int:
    """Open a shard file for reading, check its size, and return the file descriptor.

    Raises:
        DamagedError: the file is missing or has another size.
        StoreError: the operating system cannot open it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DamagedError(
            f"{path}: the file is missing. Build the store again; finished shards are kept."
        ) from error
    except OSError as error:
        raise unreadable(Path(path), error) from error
    found = os.fstat(descriptor).st_size
    if found != size:
        os.close(descriptor)
        raise DamagedError(f"{path}: {found} bytes, {size} were written. {REPAIR}")
    return descriptor


def read_part(descriptor: int, path: Path | str, name: str, part: Part) -> npt.NDArray[np.generic]:
    """Read one dataset of an open shard file into memory.

    Raises: DamagedError: its bytes differ from what was written.
    """
    array = np.empty(part.shape, part.dtype)
    if part.nbytes:
        view = array.reshape(-1).data.cast("B")
        read_into(descriptor, path, view, part.offset)
        if hashlib.sha256(view).hexdigest() != part.sha256:
            raise DamagedError(f"{path}: column {name!r} differs from what was written. {REPAIR}")
    return array


def read_into(descriptor: int, path: Path | str, view: memoryview, offset: int) -> None:
    """Fill a buffer from an open file.

    Raises: DamagedError: the file ends too early.
    """
    done = 0
    while done < len(view):
        try:
            got = os.preadv(descriptor, [view[done : done + _READ]], offset + done)
        except OSError as error:
            raise unreadable(Path(path), error) from error
        if not got:
            raise DamagedError(f"{path}: ends at byte {offset + done}. Build the store again.")
        done += got
