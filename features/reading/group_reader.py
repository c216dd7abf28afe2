"""Read the columns of one group, checked against its manifest, and keep them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from features.format import GroupManifest, closing, decode_texts, find_column, read_part
from features.reading.columns import CodedColumn, TextColumn
from features.reading.fork_locks import fork_safe_lock
from features.reading.integrity import HeaderCheck, LengthCheck, Piece, open_checked
from features.reading.memory_map import fits_one_map, map_pieces
from features.reading.row_readers import H5Rows, MappedRows, PreadRows

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
RowReader: TypeAlias = MappedRows | PreadRows | H5Rows
T = TypeVar("T")

MAX_MAPS = 8_000  # shards; Linux allows a process 65,530 maps, and every column has its own
SMALL_COLUMN = 64 << 20  # bytes; copied to memory if one map does not fit


class GroupReader:
    """The columns of a finished group; each is read when first asked for, and kept.

    Checked are: the size of a file whenever it is opened; the headers before the data whenever a
    shard is mapped; all bytes outside the datasets when a shard is first read; and the hash of
    everything that is copied to memory.

    Args:
        manifest: manifest of the group.
        backend: how rows of large columns are read, see ``StoreReader``.
        fetch: called once before the first shard is read, to bring the files.
    """

    def __init__(
        self,
        manifest: GroupManifest,
        backend: str = "auto",
        fetch: Callable[[], None] | None = None,
    ):
        self.manifest, self.backend, self._fetch = manifest, backend, fetch
        self.headers, self.lengths = HeaderCheck(manifest), LengthCheck(manifest)
        self._kept: dict[str, Any] = {}
        self._lock = fork_safe_lock(self)
        self._mapped = False  # every file has been mapped and the headers before its data checked

    def column(self, name: str) -> Array:
        """Return a whole column, read-only; see ``StoreReader.column``."""
        _, column = find_column(name)
        if column.kind == "text":
            return np.asarray(self.text(name).tolist(), dtype=object)
        if column.kind == "coded":
            return self.coded(name).codes
        if column.kind == "offsets":
            return self.offsets(name)
        if column.axis != "image":
            return self.dense(name)
        self._bring()
        self.headers.all()
        return self._map(name).array()

    def gather(self, name: str, rows: Index, out: Array) -> None:
        """Copy rows of a dense column into ``out``; the rows are valid and ``out`` fits.

        Raises: DamagedError: a shard of these rows differs from what was written.
        """
        reader = self._rows(name)
        if not self.headers.done:
            self.headers.rows(rows)
        if reader.trusts_length:
            self.lengths.rows(rows)
        reader.gather(rows, out)

    def prefetch(self, name: str, rows: Index) -> None:
        """Hint that these rows of a dense column will be gathered soon."""
        self._rows(name).prefetch(rows)

    def offsets(self, name: str) -> Array:
        """Return the offsets of a ragged axis over all shards, (n + 1,) int64."""
        return self._keep(name, lambda: _join_offsets(self._load(name)))

    def dense(self, name: str) -> Array:
        """Return a small dense column in memory; int32 values as int16 if they all fit."""
        return self._keep(name, lambda: _compact(np.concatenate(self._load(name))))

    def text(self, name: str) -> TextColumn:
        """Return a text column over all shards."""

        def read() -> TextColumn:
            raw = np.concatenate(self._load(f"{name}/bytes"))
            return TextColumn(_frozen(raw), _join_offsets(self._load(f"{name}/offsets")))

        return self._keep(name, read)

    def coded(self, name: str) -> CodedColumn:
        """Return a coded column over all shards, with one table of names for all of them."""
        return self._keep(name, lambda: self._join_codes(name))

    def _join_codes(self, name: str) -> CodedColumn:
        raws, ends = self._load(f"{name}/names/bytes"), self._load(f"{name}/names/offsets")
        tables = [decode_texts(raw, end) for raw, end in zip(raws, ends, strict=True)]
        names = sorted(set().union(*tables))
        position = {value: code for code, value in enumerate(names)}
        dtype = np.min_scalar_type(max(len(names) - 1, 0))
        local = self._load(f"{name}/codes")
        codes = np.empty((sum(map(len, local)), *local[0].shape[1:]), dtype)
        at = 0
        for table, shard in zip(tables, local, strict=True):
            lookup = np.asarray([position[value] for value in table], dtype)
            if shard.size:
                np.take(lookup, shard, out=codes[at : at + len(shard)], mode="clip")
            at += len(shard)
        return CodedColumn(names, _frozen(codes))

    # Bytes

    def _rows(self, name: str) -> RowReader:
        """Return the reader of a dense column's rows; it checks no headers."""

        def make() -> RowReader:
            parts = self.manifest.parts[name]
            many = self.backend == "auto" and len(parts.lengths) > MAX_MAPS
            if not parts.row_bytes * parts.lengths.sum():
                return self._map(name)
            if not many and self.backend not in ("pread", "h5py"):
                return self._map(name)
            pieces = self._pieces(name)
            if self.backend == "h5py":
                return H5Rows(pieces, name)
            return PreadRows(pieces, parts.shape, np.dtype(parts.dtype))

        return self._keep(f"rows of {name}", make)

    def _map(self, name: str) -> MappedRows:
        """Return the maps of a column; a small one that does not fit one map is copied."""

        def make() -> MappedRows:
            pieces, parts = self._pieces(name), self.manifest.parts[name]
            size = parts.row_bytes * parts.lengths.sum()
            if size <= SMALL_COLUMN and not fits_one_map(pieces, parts.row_bytes):
                return MappedRows([_frozen(np.concatenate(self._load(name)))], trusts_length=False)
            mapped = MappedRows(map_pieces(pieces, parts.shape, np.dtype(parts.dtype)))
            self._mapped |= bool(parts.row_bytes and parts.lengths.all())
            return mapped

        return self._keep(f"map of {name}", make)

    def _load(self, name: str) -> list[Array]:
        """Read one dataset of every shard into memory and check its hash.

        Raises: DamagedError: its bytes differ from what was written.
        """
        self._bring()
        self.headers.all()
        arrays: list[Array] = []
        for piece, part in zip(self._pieces(name), self.manifest.parts[name], strict=True):
            if not part.nbytes:
                arrays.append(np.empty(part.shape, part.dtype))
                continue
            with closing(open_checked(piece)) as descriptor:
                arrays.append(read_part(descriptor, piece.path, name, part))
        return arrays

    def _bring(self) -> None:
        """Fetch the files of a store behind a URL, once."""
        if self._fetch is not None:
            with self._lock:
                if self._fetch is not None:
                    self._fetch()
                    self._fetch = None

    def _pieces(self, name: str) -> list[Piece]:
        """Return where a dataset lies in every shard."""
        self._bring()
        parts, checked = self.manifest.parts[name], self._mapped or self.headers.done
        return [
            Piece(path, size, offset, rows, stop, "" if checked else head)
            for (path, size, stop, head), offset, rows in zip(
                self._files(), parts.offsets.tolist(), parts.lengths.tolist(), strict=True
            )
        ]

    def _files(self) -> list[tuple[str, int, int, str]]:
        """Return path, size, end of the HDF5 headers and their CRC-32, per shard."""

        def make() -> list[tuple[str, int, int, str]]:
            manifest = self.manifest
            stops = np.asarray(manifest.sizes)
            for parts in manifest.parts.values():
                held = parts.lengths * math.prod(parts.shape) > 0
                stops = np.where(held, np.minimum(stops, parts.offsets), stops)
            paths = [f"{manifest.folder}/{number:05d}.h5" for number in range(len(stops))]
            return list(zip(paths, manifest.sizes, stops.tolist(), manifest.heads, strict=True))

        return self._keep("files", make)

    def _keep(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return cast(T, self._kept[name])


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _compact(array: Array) -> Array:
    """Return int32 values as int16 where they all fit, which halves the memory of a loader."""
    limit = np.iinfo(np.int16)
    fits = array.dtype == np.int32 and (
        not array.size or (int(array.min()) >= limit.min and int(array.max()) <= limit.max)
    )
    return _frozen(array.astype(np.int16) if fits else array)


def _join_offsets(local: list[Array]) -> Array:
    ends = np.cumsum([0, *(int(shard[-1]) for shard in local)])
    shifted = [shard[:-1] + start for shard, start in zip(local, ends, strict=False)]
    return _frozen(np.concatenate([*shifted, ends[-1:]]).astype(np.int64))
