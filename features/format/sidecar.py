"""What a shard's sidecar says: where its datasets lie and what their bytes hash to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, overload

import numpy as np
import numpy.typing as npt

from features.errors import FormatError, NewerFormatError, StoreError
from features.format.files import read_sealed
from features.format.schema import GROUPS

__all__ = [
    "Part",
    "Parts",
    "ShardRecord",
    "check_parts",
    "file_whole",
    "read_sidecar",
    "shard_done",
    "shard_file",
]


class _Typed(Protocol):
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


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
class Parts(Sequence[Part]):
    """Where one dataset lies in every shard; a ``Part`` is made when it is asked for.

    Attributes:
        dtype: on disk.   shape: of a row.
        lengths, offsets, hashes: per shard: rows, byte in the file, sha256.
    """

    dtype: str
    shape: tuple[int, ...]
    lengths: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    hashes: Sequence[str]

    @overload
    def __getitem__(self, at: int) -> Part: ...
    @overload
    def __getitem__(self, at: slice) -> list[Part]: ...
    def __getitem__(self, at: int | slice) -> Part | list[Part]:
        """Return the place in one shard, or in several."""
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        shape = (int(self.lengths[at]), *self.shape)
        return Part(int(self.offsets[at]), shape, self.dtype, self.hashes[at])

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self.lengths)


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


def file_whole(folder: Path, number: int, size: int) -> bool:
    """Say whether a shard's file is there and has the size that was written."""
    try:
        return shard_file(folder, number).stat().st_size == size
    except OSError:
        return False


def shard_done(
    folder: Path, number: int, key: str, rows: range | None = None
) -> ShardRecord | None:
    """Return the record of a finished shard of this key, None where it must be built.

    Args:
        folder, number, key: which shard.
        rows: image rows that it must have; any when not given.

    Raises: NewerFormatError: a newer release wrote it; building it here would destroy that.
    """
    try:
        record = read_sidecar(folder, number)
    except NewerFormatError:
        raise
    except StoreError:
        return None
    if rows is not None and (record.row0, record.rows) != (rows.start, len(rows)):
        return None
    return record if record.key == key and file_whole(folder, number, record.size) else None
