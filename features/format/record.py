"""The contents of a shard's sidecar: offset, shape, dtype and hash of every dataset."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
        return math.prod(self.shape) * _item_bytes(self.dtype)

    @property
    def span(self) -> tuple[int, int]:
        """First byte of the data in the file, and the byte after the last."""
        return self.offset, self.offset + self.nbytes


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
    def of_document(cls, document: Mapping[str, Any]) -> ShardRecord:
        """Return the record of a sidecar document, checked against the schema.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, OverflowError: the document is not
                a sidecar, or contradicts itself.
        """
        columns: Mapping[str, Mapping[str, Any]] = document["columns"]
        text = {name: str(document[name]) for name in ("group", "key", "head", "rest")}
        counts = {name: int(document[name]) for name in ("number", "row0", "rows", "size")}
        if min(counts.values()) < 0:
            raise ValueError(f"a negative number: {counts}")
        parts, kinds, size = {}, [], counts["size"]
        for name, part in columns.items():  # plain loops: a resumed build reads thousands
            offset, shape = int(part["offset"]), tuple(map(int, part["shape"]))
            dtype = _dtype(str(part["dtype"]))
            stop = offset + math.prod(shape) * _item_bytes(dtype)
            if offset < 0 or stop > size or (shape and min(shape) < 0):
                raise ValueError(f"{name!r} lies outside its file")
            parts[name] = Part(offset, shape, dtype, str(part["sha256"]))
            kinds.append((name, dtype, len(shape) - 1))
        check_kinds(text["group"], tuple(kinds))
        return cls(**text, **counts, parts=parts)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _dtype(name: str) -> str:
    return np.dtype(name).str


@functools.lru_cache(maxsize=256)
def _item_bytes(dtype: str) -> int:
    return np.dtype(dtype).itemsize


@functools.lru_cache(maxsize=64)
def check_kinds(group: str, kinds: tuple[tuple[str, str, int], ...]) -> None:
    """Check that the datasets of a group match the schema.

    The shards of a group agree in them, so that most of thousands of calls take no time.

    Args:
        group: name of the column group.
        kinds: name, dtype and number of axes of a row of every dataset.

    Raises: ValueError: they do not match.
    """
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}")
    names = {name for name, _, _ in kinds}
    expected = {}
    for column in GROUPS[group].columns:
        if column.optional and names.isdisjoint(column.parts()):
            continue
        for name, dtypes in column.parts().items():
            expected[name] = (dtypes, len(column.shape) if name.count("/") < 2 else 0)
    if set(expected) != names:
        raise ValueError(f"datasets {sorted(set(expected) ^ names)[:3]} do not fit")
    for name, dtype, axes in kinds:
        if dtype not in expected[name][0] or axes != expected[name][1]:
            raise ValueError(f"{name!r} has dtype {dtype} and {axes} axes per row")
