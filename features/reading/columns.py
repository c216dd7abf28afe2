"""Logical columns of one group: verified small columns in memory, large ones by their rows."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError
from features.format.codec import decode_texts
from features.format.group import GroupManifest
from features.reading.headers import HeaderCheck
from features.reading.locks import lock_of
from features.reading.mmap import Piece, one_map_fits, open_checked, read_into
from features.reading.rows import ArrayRows, H5Rows, PreadRows, RowReader, faster, map_rows

__all__ = ["CodedColumn", "GroupReader", "TextColumn"]

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]

_SMALL = 64 << 20  # bytes that may be copied to memory instead of one map per shard


class TextColumn:
    """Strings as UTF-8 bytes and offsets; decoded one by one, when asked."""

    def __init__(self, raw: Array, offsets: Array):
        self.raw, self.offsets = raw, offsets

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        """Return the string of one row."""
        start, stop = self.offsets[row], self.offsets[row + 1]
        return self.raw[start:stop].tobytes().decode("utf-8", "surrogatepass")

    def tolist(self) -> list[str]:
        """Return all strings."""
        return decode_texts(self.raw, self.offsets)


class CodedColumn:
    """Strings as codes into a table of distinct strings.

    Attributes:
        names: the distinct strings of all shards, sorted.
        codes: row -> position in ``names``, in the smallest unsigned dtype that fits.
    """

    def __init__(self, names: list[str], codes: Array):
        self.names, self.codes = names, codes

    def tolist(self) -> list[str]:
        """Return all strings of a column of single values."""
        names = self.names
        return [names[code] for code in self.codes.tolist()]


class GroupReader:
    """Columns of one finished group; each is read when first asked for, and kept.

    Sizes are checked whenever a file is opened, the headers before the data whenever a shard is
    mapped, all bytes outside the datasets by the first read that touches a shard, and what is
    copied to memory against its own hash.
    """

    def __init__(self, manifest: GroupManifest, backend: str = "auto"):
        self.manifest, self.backend = manifest, backend
        self._kept: dict[str, Any] = {}
        self._lock = lock_of(self)
        self.headers = HeaderCheck(manifest)
        self._mapped = False  # every file has been mapped, and the headers before its data checked

    def pieces(self, name: str) -> list[Piece]:
        """Return where a dataset lies in every shard."""
        parts, files = self.manifest.parts[name], self._files()
        checked = self._mapped or self.headers.done
        return [
            Piece(path, size, offset, rows, stop, "" if checked else head)
            for (path, size, stop, head), offset, rows in zip(
                files, parts.offsets.tolist(), parts.lengths.tolist(), strict=True
            )
        ]

    def _files(self) -> list[tuple[str, int, int, str]]:
        """Return path, size, end of the HDF5 headers and their CRC-32 of every shard."""

        def make() -> list[tuple[str, int, int, str]]:
            manifest = self.manifest
            stops = np.asarray(manifest.sizes)
            for parts in manifest.parts.values():
                held = parts.lengths * math.prod(parts.shape) > 0
                stops = np.where(held, np.minimum(stops, parts.offsets), stops)
            paths = [f"{manifest.folder}/{number:05d}.h5" for number in range(len(stops))]
            return list(zip(paths, manifest.sizes, stops.tolist(), manifest.heads, strict=True))

        return cast("list[tuple[str, int, int, str]]", self._keep("files", make))

    def rows(self, name: str) -> RowReader:
        """Return the reader of a dense column: by the backend when it is large.

        It reads data and nothing else; ``gather`` checks the headers first.
        """
        return cast(RowReader, self._keep(f"rows of {name}", lambda: self._open_rows(name)))

    def gather(self, name: str, rows: Index, out: Array) -> None:
        """Copy rows of a dense column into ``out``; they are valid, ``out`` fits.

        Raises: DamagedError: a shard of these rows is not what was written.
        """
        reader = self.rows(name)
        if not self.headers.done:
            self.headers.rows(rows)
        reader.gather(rows, out)

    def mapped(self, name: str) -> Array:
        """Return a dense column as one read-only array, mapped where possible.

        Raises: DamagedError: a shard is not what was written.
        """
        self.headers.all()
        return self._map(name).array()

    def _map(self, name: str) -> ArrayRows:
        """Return the maps of a column; a small one that no single map holds is copied."""

        def make() -> ArrayRows:
            pieces, row = self.pieces(name), self.manifest.parts[name][0].row
            size = row.nbytes * sum(piece.rows for piece in pieces)
            if size <= _SMALL and not one_map_fits(pieces, row.nbytes):
                return ArrayRows([_frozen(np.concatenate(self.load(name)))])
            reader = map_rows(pieces, row.shape, np.dtype(row.dtype))
            self._mapped |= row.nbytes > 0 and all(piece.rows for piece in pieces)
            return reader

        return cast(ArrayRows, self._keep(f"map of {name}", make))

    def _open_rows(self, name: str) -> RowReader:
        pieces, row = self.pieces(name), self.manifest.parts[name][0].row
        size = row.nbytes * sum(piece.rows for piece in pieces)
        if self.backend == "mmap" or not size or (self.backend == "auto" and size <= _SMALL):
            return self._map(name)
        if self.backend == "h5py":
            return H5Rows(pieces, name)
        pread = PreadRows(pieces, row.shape, np.dtype(row.dtype))
        return pread if self.backend == "pread" else faster(self._map(name), pread)

    def load(self, name: str) -> list[Array]:
        """Read one dataset of every shard into memory, verified; not kept.

        Raises: DamagedError: bytes differ from what was written.
        """
        self.headers.all()
        arrays = []
        for piece, part in zip(self.pieces(name), self.manifest.parts[name], strict=True):
            array = np.empty(part.shape, part.dtype)
            if part.nbytes:
                descriptor = open_checked(piece)
                try:
                    view = array.data.cast("B")
                    read_into(descriptor, view, piece.offset)
                finally:
                    os.close(descriptor)
                if hashlib.sha256(view).hexdigest() != part.sha256:
                    raise DamagedError(
                        f"{piece.path}: column {name!r} is not what was written. Repair it: "
                        "python -m features verify --repair STORE, then build again."
                    )
            arrays.append(array)
        return arrays

    def offsets(self, name: str) -> Array:
        """Return the offsets of a ragged axis over all shards, (n + 1,) int64."""
        return cast(Array, self._keep(name, lambda: _join_offsets(self.load(name))))

    def dense(self, name: str) -> Array:
        """Return a small dense column over all shards, in memory; integers in 16 bits that fit."""
        return cast(Array, self._keep(name, lambda: _compact(np.concatenate(self.load(name)))))

    def text(self, name: str) -> TextColumn:
        """Return a text column over all shards."""

        def make() -> TextColumn:
            raw = np.concatenate(self.load(f"{name}/bytes"))
            return TextColumn(_frozen(raw), _join_offsets(self.load(f"{name}/offsets")))

        column: TextColumn = self._keep(name, make)
        return column

    def coded(self, name: str) -> CodedColumn:
        """Return a coded column over all shards, codes global."""
        column: CodedColumn = self._keep(name, lambda: self._join_codes(name))
        return column

    def _join_codes(self, name: str) -> CodedColumn:
        raws, ends = self.load(f"{name}/names/bytes"), self.load(f"{name}/names/offsets")
        tables = [decode_texts(raw, end) for raw, end in zip(raws, ends, strict=True)]
        names = sorted(set().union(*tables))
        position = {value: code for code, value in enumerate(names)}
        kind = np.min_scalar_type(max(len(names) - 1, 0))
        local = self.load(f"{name}/codes")
        codes = np.empty((sum(map(len, local)), *local[0].shape[1:]), kind)
        at = 0
        for table, shard in zip(tables, local, strict=True):
            lookup = np.asarray([position[value] for value in table], kind)
            if shard.size:
                np.take(lookup, shard, out=codes[at : at + len(shard)], mode="clip")
            at += len(shard)
        return CodedColumn(names, _frozen(codes))

    def _keep(self, name: str, make: Any) -> Any:
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _compact(array: Array) -> Array:
    """Return 32-bit integers in 16 bits where they fit: half the memory of a loader."""
    limit = np.iinfo(np.int16)
    fits = array.dtype == np.int32 and (
        not array.size or (int(array.min()) >= limit.min and int(array.max()) <= limit.max)
    )
    return _frozen(array.astype(np.int16) if fits else array)


def _join_offsets(local: list[Array]) -> Array:
    ends = np.cumsum([0, *(int(shard[-1]) for shard in local)])
    shifted = [shard[:-1] + start for shard, start in zip(local, ends, strict=False)]
    return _frozen(np.concatenate([*shifted, ends[-1:]]).astype(np.int64))
