"""Read the columns of a store, its ids and its splits."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import FeatureOverflow, MismatchError, UnknownName, UsageError
from features.format import (
    GroupManifest,
    find_column,
    read_group,
    read_store_manifest,
    store_manifest_path,
)
from features.reading.columns import CodedColumn
from features.reading.fork_locks import fork_safe_lock
from features.reading.group_reader import GroupReader
from features.reading.remote import Mirror
from features.reading.row_copy import aligned_empty, first_overflow
from features.reading.row_numbers import IdTable, checked_rows
from features.reading.row_readers import BACKENDS

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]

_PART = re.compile(r"(?P<split>.+)\[(?P<first>-?\d*):(?P<last>-?\d*)\]")
_ADD_TEXT = "Parse its captions: luigi --module workflows AddText --local-scheduler --store-dir DIR"


class StoreReader:
    """Columns, ids and splits of an opened store; a column is read when it is first asked for.

    Args:
        path: folder of a store (its latest manifest is used) or a store manifest.
        backend: how rows of large columns are read. ``auto`` is ``mmap``, a memory map, and
            ``pread`` for groups of more shards than a process should map; ``pread`` (positioned
            reads, for file systems where page faults are slow) and ``h5py`` on request.
        mirror: the source of the files, if they are copies of a store behind a URL.

    Attributes:
        path: absolute path of the store manifest.   manifest: its contents.
        key: key of the parameters of all groups.   hash: hash of all contents.
    """

    def __init__(self, path: Path, *, backend: str = "auto", mirror: Mirror | None = None):
        if backend not in BACKENDS:
            raise UnknownName.of("backend", backend, BACKENDS)
        self.path = store_manifest_path(path).absolute()  # the working directory may change
        self.backend, self.mirror = backend, mirror
        self.manifest = read_store_manifest(self.path)
        self.key: str = self.manifest["key"]
        self.hash: str = self.manifest["hash"]
        self._readers: dict[str, GroupReader] = {}
        self._lock = fork_safe_lock(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path only: another process opens its own maps and files."""
        given = (type(self), self.path, self.backend)
        if self.mirror is not None:
            return _open_mirrored, (*given, self.mirror.url, self.mirror.cache)
        return functools.partial(type(self), self.path, backend=self.backend), ()

    def __repr__(self) -> str:
        """Return data set, key and groups."""
        groups = ", ".join(sorted(self.manifest["groups"]))
        return f"<{type(self).__name__} {self.manifest['dataset']} {self.key[:12]}: {groups}>"

    def __len__(self) -> int:
        """Return the number of image rows, including skipped images."""
        return int(self.manifest["images"])

    # Columns

    def has(self, name: str, *, variant: str = "") -> bool:
        """Return True if the store has a column.

        Raises: UnknownName: the format has no such column.
        """
        group = _group_of(name, variant)
        if group not in self.manifest["groups"]:
            return False
        return not find_column(name)[1].optional or name in self.group(group).manifest.parts

    def group(self, name: str) -> GroupReader:
        """Return the reader of a group, for example ``regions`` or ``regions@clip``.

        Raises:
            UnknownName: the store has no such group.
            MismatchError: the group has changed since the store was built.
        """
        with self._lock:
            if name not in self._readers:
                self._readers[name] = self._open_group(name)
            return self._readers[name]

    @property
    def groups_read(self) -> list[GroupManifest]:
        """Manifests of the groups that something has been read from."""
        return [reader.manifest for reader in self._readers.values()]

    def _open_group(self, name: str) -> GroupReader:
        entry = self.manifest["groups"].get(name)
        if entry is None:
            known = ", ".join(sorted(self.manifest["groups"]))
            advice = _ADD_TEXT if name in ("tokens", "text") else "Build the missing stage first."
            raise UnknownName(f"{self.path}: this store has no {name!r}. It has: {known}. {advice}")
        if self.mirror is not None:
            self.mirror.group(entry["folder"], entry["hash"])
        manifest = read_group(self.path.parent / entry["folder"])
        if manifest.hash != entry["hash"]:
            raise MismatchError(
                f"{manifest.path}: content hash {manifest.hash[:12]}, but the store was built with "
                f"{entry['hash'][:12]}. The group was built again; build the store again."
            )
        if (
            manifest.index not in ("", self.manifest["index"])
            or manifest.group != name.partition("@")[0]
            or sum(manifest.rows) != len(self)
        ):
            raise MismatchError(f"{manifest.path}: belongs to other images than this store.")
        fetch = None
        if self.mirror is not None:
            fetch = functools.partial(self.mirror.shards, manifest)
        return GroupReader(manifest, self.backend, fetch)

    def _group_with(self, name: str, variant: str, kind: str) -> GroupReader:
        """Return the reader of a column's group, after checking the kind of the column."""
        column = find_column(name)[1]
        if column.kind != kind:
            raise UsageError(f"column {name!r} is {column.kind}, not {kind}.")
        return self.group(_group_of(name, variant))

    def column(self, name: str, *, variant: str = "") -> Array:
        """Return a whole column, read-only.

        Dense columns of images are views of a memory map where one map holds them. Text columns are
        object arrays of str. Coded columns are positions in ``coded(name).names``.

        Args:
            name: a column of ``features/format/data/schema.json``.
            variant: variant of its group, for example ``clip`` for ``regions@clip``.

        Raises: UnknownName: the format or the store has no such column.
        """
        return self.group(_group_of(name, variant)).column(name)

    def coded(self, name: str, *, variant: str = "") -> CodedColumn:
        """Return a coded column: its distinct strings and a code per value."""
        return self._group_with(name, variant, "coded").coded(name)

    def offsets(self, name: str, *, variant: str = "") -> Array:
        """Return the offsets of a ragged axis, (n + 1,) int64."""
        return self._group_with(name, variant, "offsets").offsets(name)

    def row_shape(self, name: str, *, variant: str = "") -> tuple[int, ...]:
        """Return the row shape of a dense column, for example (36, 2048)."""
        return self._group_with(name, variant, "dense").manifest.parts[name].shape

    def row_dtype(self, name: str, *, variant: str = "") -> np.dtype[Any]:
        """Return the dtype that a dense column is stored in."""
        return np.dtype(self._group_with(name, variant, "dense").manifest.parts[name].dtype)

    def gather(
        self,
        name: str,
        rows: Sequence[int] | Array,
        out: Array | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        variant: str = "",
    ) -> Array:
        """Copy rows of a dense image column, with the cast in the same pass.

        Args:
            name: a dense column of images, for example ``object_features``.
            rows: image rows, in any order; repeats are allowed.
            out: array to fill, (len(rows), *row shape), C-contiguous, of any dtype.
            dtype: dtype of the result if ``out`` is not given; the stored dtype by default.
            variant: variant of the group.

        Returns: ``out``, or a new array.

        Raises:
            UsageError: a row outside the store, or an ``out`` that does not fit.
            FeatureOverflow: a value is too large for the requested float16.
        """
        group = self._group_with(name, variant, "dense")
        if find_column(name)[1].axis != "image":
            raise UsageError(f"column {name!r} has no image rows; use column({name!r}).")
        stored = group.manifest.parts[name]
        index = checked_rows(rows, len(self))
        shape = (len(index), *stored.shape)
        if out is None:
            out = aligned_empty(shape, stored.dtype if dtype is None else dtype)
        elif out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
            raise UsageError(f"out must be a writable C-contiguous array {shape}, not {out.shape}.")
        narrows = out.dtype == np.float16 and np.dtype(stored.dtype) != np.float16
        with np.errstate(over="ignore" if narrows else None):
            group.gather(name, index, out)
        if narrows and (at := first_overflow(out)) is not None:
            image = self.group("index").text("image_id")[int(index[at])]
            largest = float(np.abs(self.gather(name, index[at : at + 1], variant=variant)).max())
            raise FeatureOverflow(
                f"image {image}, column {name}: a value is too large for float16 (largest "
                f"magnitude {largest:g}). Read it as float32."
            )
        return out

    def prefetch(self, name: str, rows: Array, *, variant: str = "") -> None:
        """Hint that these rows of a dense image column will be gathered soon."""
        group = self._group_with(name, variant, "dense")
        group.prefetch(name, checked_rows(rows, len(self)))

    # Ids

    def rows(self, image_ids: Iterable[str]) -> Index:
        """Return the row of each image id.

        Raises: UnknownName: an id is not in the store.
        """
        return self._image_ids.rows(image_ids)

    def rows_of_captions(self, caption_ids: Iterable[str]) -> Index:
        """Return the row of each caption id.

        Raises: UnknownName: an id is not in the store.
        """
        return self._caption_ids.rows(caption_ids)

    @functools.cached_property
    def _image_ids(self) -> IdTable:
        return IdTable("image id", self.group("index").text("image_id").tolist())

    @functools.cached_property
    def _caption_ids(self) -> IdTable:
        return IdTable("caption id", self.group("index").text("caption_id").tolist())

    # Splits

    @functools.cached_property
    def skipped(self) -> dict[str, str]:
        """Images that could not be used: id -> reason. They are in no split."""
        rows = np.flatnonzero(~self.usable).tolist()
        if not rows:
            return {}
        column, ids = self.coded("skipped"), self.group("index").text("image_id")
        return {ids[row]: column.names[column.codes[row]] for row in rows}

    @functools.cached_property
    def usable(self) -> npt.NDArray[np.bool_]:
        """False for the image rows that were skipped when the store was built, (images,)."""
        if not self.has("skipped"):
            return np.ones(len(self), bool)
        column = self.coded("skipped")
        return np.asarray([not name for name in column.names], bool)[column.codes]

    @functools.cached_property
    def splits(self) -> Mapping[str, Index]:
        """Split name -> rows of its images, ascending, without skipped images. Read-only."""
        column = self.coded("split")
        found = {
            name: np.flatnonzero((column.codes == code) & self.usable)
            for code, name in enumerate(column.names)
        }
        return MappingProxyType({name: rows for name, rows in found.items() if len(rows)})

    def image_rows(self, split: str) -> Index:
        """Return the rows of the images of a split, ascending.

        Args:
            split: name of a split, or a part of one as a Python slice over its images:
                ``val[:500]``, ``train[:-1000]``, ``val[100:200]``. A part may be cut again.

        Raises: UnknownName: no such split.
        """
        if split in self.splits:
            return self.splits[split]
        part = _PART.fullmatch(split)
        if part is None:
            error = UnknownName.of("split", split, self.splits)
            if set(self.splits) == {"unsplit"}:
                raise UnknownName(
                    f"{error} The images of this store have no splits: build or import it again "
                    "with --split-by 80/10/10, or with a column 'split' in the captions file."
                )
            raise error
        first, last = (int(part[end]) if part[end] else None for end in ("first", "last"))
        return self.image_rows(part["split"])[first:last]

    def caption_rows(self, split: str) -> Index:
        """Return the rows of the captions of a split, ascending and therefore image by image."""
        inside = np.zeros(len(self), bool)
        inside[self.image_rows(split)] = True
        return np.flatnonzero(inside[self._image_of_caption])

    @functools.cached_property
    def _image_of_caption(self) -> Index:
        offsets = self.offsets("caption_offsets")
        return np.repeat(np.arange(len(self)), np.diff(offsets))

    def image_of_caption(self, captions: Sequence[int] | Array) -> Index:
        """Return the image row of each caption row.

        Raises: UsageError: a row outside the store.
        """
        image_of = self._image_of_caption
        return image_of[checked_rows(captions, len(image_of), "caption rows")]

    def caption_image_rows(self, split: str) -> Index:
        """Return, for each caption of a split, the position of its image in ``image_rows(split)``.

        This is ``caption_to_image`` of ``models.recall``.
        """
        images = self._image_of_caption[self.caption_rows(split)]
        return np.searchsorted(self.image_rows(split), images)


def _open_mirrored(
    kind: type[StoreReader], path: Path, backend: str, url: str, cache: Path
) -> StoreReader:
    """Open the copy of a store behind a URL in another process."""
    return kind(path, backend=backend, mirror=Mirror(url, cache))


def _group_of(column: str, variant: str) -> str:
    group = find_column(column)[0].name
    return f"{group}@{variant}" if variant else group
