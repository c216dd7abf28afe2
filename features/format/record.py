"""The contents of a shard's sidecar: offset, shape, dtype and hash of every dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from features.format.schema import GROUPS


@dataclass(frozen=True, slots=True)
class Part:
    """One dataset of one shard: byte offset in the file, shape, dtype and sha256 of its bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: str
    sha256: str

    @property
    def nbytes(self) -> int:
        """Number of bytes of the data."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def span(self) -> tuple[int, int]:
        """First byte of the data in the file, and the byte after the last."""
        return self.offset, self.offset + self.nbytes

    @property
    def row(self) -> Part:
        """The same part with the shape of a single row."""
        return Part(self.offset, self.shape[1:], self.dtype, self.sha256)


@dataclass(frozen=True, slots=True)
class Parts:
    """One dataset over all shards of a group; item ``k`` is its ``Part`` in shard ``k``.

    Attributes:
        dtype: dtype on disk.   shape: shape of a row.
        lengths, offsets, hashes: per shard, the number of rows, the byte offset and the sha256.
    """

    dtype: str
    shape: tuple[int, ...]
    lengths: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    hashes: Sequence[str]

    def __getitem__(self, at: int) -> Part:
        """Return the part in one shard."""
        shape = (int(self.lengths[at]), *self.shape)
        return Part(int(self.offsets[at]), shape, self.dtype, self.hashes[at])

    @property
    def row_bytes(self) -> int:
        """Number of bytes of a row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __iter__(self) -> Iterator[Part]:
        """Iterate over the shards."""
        return map(self.__getitem__, range(len(self.lengths)))


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The contents of a shard's sidecar.

    Attributes:
        group, key, number: identity of the shard.
        row0, rows: its first image row and its number of image rows.
        size: size of the HDF5 file in bytes.
        head: CRC-32 of the bytes before the first dataset.
        rest: sha256 of all bytes outside the datasets.
        parts: dataset path -> its part.
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

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First byte and end of every dataset in the file."""
        return [part.span for part in self.parts.values()]

    @property
    def image_rows(self) -> range:
        """The image rows of the shard."""
        return range(self.row0, self.row0 + self.rows)

    def document(self) -> dict[str, object]:
        """Return the record as the sidecar stores it."""
        document = asdict(self)
        return {"kind": "shard", "columns": document.pop("parts"), **document}

    @classmethod
    def of_document(cls, document: Mapping[str, object]) -> ShardRecord:
        """Return the record of a sidecar document, checked against the schema.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, OverflowError: the document is not
                a sidecar, or contradicts itself.
        """
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
        text = {name: str(document[name]) for name in ("group", "key", "head", "rest")}
        counts = {n: int(cast(int, document[n])) for n in ("number", "row0", "rows", "size")}
        record = cls(**text, **counts, parts=parts)  # type: ignore[arg-type]
        if min(counts.values()) < 0:
            raise ValueError(f"a negative number: {counts}")
        check_parts(record.group, {name: part.row for name, part in parts.items()})
        for name, part in parts.items():
            if min(part.offset, *part.shape) < 0 or part.offset + part.nbytes > record.size:
                raise ValueError(f"{name!r} lies outside its file")
        return record


def check_parts(group: str, parts: Mapping[str, Part | Parts]) -> None:
    """Check that the datasets of a group match the schema: names, dtypes, numbers of axes.

    Raises: ValueError: they do not.
    """
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}")
    expected = {}
    for column in GROUPS[group].columns:
        if column.optional and parts.keys().isdisjoint(column.parts()):
            continue
        for name, dtypes in column.parts().items():
            expected[name] = (dtypes, len(column.shape) if name.count("/") < 2 else 0)
    if set(expected) != set(parts):
        raise ValueError(f"datasets {sorted(set(expected) ^ set(parts))[:3]} do not fit")
    for name, part in parts.items():
        dtypes, axes = expected[name]
        if part.dtype not in dtypes or len(part.shape) != axes:
            raise ValueError(f"{name!r} has dtype {part.dtype} and row shape {part.shape}")
