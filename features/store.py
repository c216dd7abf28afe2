"""The opened store: rows, columns, graphs, tables and batches behind one object."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import FeatureOverflow, MismatchError, UnknownName, UsageError
from features.format.group import read_group
from features.format.manifest import read_store_manifest, store_manifest_path
from features.format.schema import GROUPS, find_column
from features.reading.buffers import aligned_empty
from features.reading.columns import CodedColumn, GroupReader
from features.reading.ids import IdTable
from features.reading.locks import lock_of
from features.reading.rows import BACKENDS, checked_rows, first_overflow
from features.records import SceneGraph, TextGraph

if TYPE_CHECKING:
    import pandas as pd

    from features.batches.batch import CaptionBatch, ImageBatch
    from features.batches.loader import Loader
    from features.vocab.codebook import Codebook

__all__ = ["Store", "open_store"]

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


_PART = re.compile(r"(?P<split>.+)\[(?P<first>-?\d*):(?P<last>-?\d*)\]")
_ADD_TEXT = "Parse its captions: luigi --module workflows AddText --local-scheduler --store-dir DIR"


def open_store(path: str | Path, *, backend: str = "auto") -> Store:
    """Open a store for reading.

    Args:
        path: folder of a store (its latest manifest is used) or one store manifest.
        backend: how rows of large columns are read: ``auto``, ``mmap``, ``pread`` or ``h5py``.

    Raises:
        MissingInput: no such path.
        FormatError: not a store, or written by a newer release.
        DamagedError: the manifest is not what was written.
    """
    return Store(Path(path), backend=backend)


class Store:
    """A store opened for reading; columns are read when they are first asked for.

    Attributes:
        path: its manifest, absolute.   manifest: that manifest.
        key: key of the parameters of all groups.   hash: hash of all contents.
    """

    def __init__(self, path: Path, *, backend: str = "auto"):
        if backend not in BACKENDS:
            raise UnknownName.of("backend", backend, BACKENDS)
        self.path = store_manifest_path(path).absolute()  # a process may change its folder
        self.backend = backend
        self.manifest = read_store_manifest(self.path)
        self.key: str = self.manifest["key"]
        self.hash: str = self.manifest["hash"]
        self._readers: dict[str, GroupReader] = {}
        self._lock = lock_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path: the other process opens its own maps and files."""
        return functools.partial(open_store, self.path, backend=self.backend), ()

    def __repr__(self) -> str:
        """Return data set, key and groups."""
        groups = ", ".join(sorted(self.manifest["groups"]))
        return f"<Store {self.manifest['dataset']} {self.key[:12]}: {groups}>"

    def __len__(self) -> int:
        """Return the number of image rows, skipped images included."""
        return int(self.manifest["images"])

    # Columns

    def has(self, name: str, *, variant: str = "") -> bool:
        """Say whether the store holds a column."""
        group, _ = find_column(name)
        return _bound(group.name, variant) in self.manifest["groups"]

    def group(self, name: str) -> GroupReader:
        """Return the reader of a bound group, ``regions`` or ``regions@clip``.

        Raises: UnknownName: the store does not bind this group.
        """
        with self._lock:
            if name not in self._readers:
                entry = self.manifest["groups"].get(name)
                if entry is None:
                    known, text = self.manifest["groups"], name in ("tokens", "text")
                    advice = _ADD_TEXT if text else "Build the missing stage first."
                    raise UnknownName(
                        f"{self.path}: this store has no {name!r}. "
                        f"It has: {', '.join(sorted(known))}. {advice}"
                    )
                manifest = read_group(self.path.parent / entry["folder"])
                if manifest.hash != entry["hash"]:
                    raise MismatchError(
                        f"{manifest.path}: content {manifest.hash[:12]}, the store binds "
                        f"{entry['hash'][:12]}. The group was built again; build the store again."
                    )
                if (
                    manifest.index not in ("", self.manifest["index"])
                    or manifest.group != name.partition("@")[0]
                    or sum(manifest.rows) != len(self)
                ):
                    raise MismatchError(
                        f"{manifest.path}: belongs to other images than this store."
                    )
                self._readers[name] = GroupReader(manifest, self.backend)
            return self._readers[name]

    def _reader(self, name: str, variant: str, kind: str | None = None) -> GroupReader:
        group, column = find_column(name)
        if kind is not None and column.kind != kind:
            raise UsageError(f"column {name!r} is {column.kind}, not {kind}.")
        return self.group(_bound(group.name, variant))

    def column(self, name: str, *, variant: str = "") -> Array:
        """Return a whole column, read-only.

        Dense columns of images are views of the files where one map holds them. Text columns are
        object arrays of str. Coded columns are their strings' positions in ``coded(name).names``.

        Args:
            name: a column of ``features.format.schema``.
            variant: name of a variant of its group, ``clip`` for ``regions@clip``.

        Raises: UnknownName: no such column in the format or in this store.
        """
        _, column = find_column(name)
        reader = self._reader(name, variant)
        if column.kind == "text":
            return np.asarray(reader.text(name).tolist(), dtype=object)
        if column.kind == "coded":
            return reader.coded(name).codes
        if column.kind == "offsets":
            return reader.offsets(name)
        return reader.mapped(name) if column.axis == "image" else reader.dense(name)

    def coded(self, name: str, *, variant: str = "") -> CodedColumn:
        """Return a coded column: its distinct strings and a code per value."""
        return self._reader(name, variant, "coded").coded(name)

    def offsets(self, name: str, *, variant: str = "") -> Array:
        """Return the offsets of a ragged axis, (n + 1,) int64."""
        return self._reader(name, variant, "offsets").offsets(name)

    def row_shape(self, name: str, *, variant: str = "") -> tuple[int, ...]:
        """Return the row shape of a dense column, for example (36, 2048)."""
        return self._reader(name, variant, "dense").manifest.parts[name][0].shape[1:]

    def row_dtype(self, name: str, *, variant: str = "") -> np.dtype[Any]:
        """Return the dtype that a dense column is stored in."""
        return np.dtype(self._reader(name, variant, "dense").manifest.parts[name].dtype)

    def gather(
        self,
        name: str,
        rows: Sequence[int] | Array,
        out: Array | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        variant: str = "",
    ) -> Array:
        """Copy some rows of a dense image column, cast on the way.

        Args:
            name: a dense column of images, for example ``object_features``.
            rows: image rows, in any order, repeats allowed.
            out: array to fill, (len(rows), *row shape), C-contiguous; its dtype is what you get.
            dtype: dtype of the result when ``out`` is not given; the stored one by default.
            variant: variant of the group.

        Returns:
            ``out``, or a new array.

        Raises:
            UsageError: a row outside the store, or an ``out`` that does not fit.
            FeatureOverflow: a value that float16, asked for, cannot hold.
        """
        reader = self._reader(name, variant, "dense")
        part = reader.manifest.parts[name][0]
        if find_column(name)[1].axis != "image":
            raise UsageError(f"column {name!r} has no image rows; use column({name!r}).")
        index = checked_rows(rows, len(self))
        shape = (len(index), *part.shape[1:])
        if out is None:
            out = aligned_empty(shape, part.dtype if dtype is None else dtype)
        elif out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
            raise UsageError(f"out must be a writable C-contiguous array {shape}, not {out.shape}.")
        if out.dtype != np.float16 or np.dtype(part.dtype) == np.float16:
            reader.gather(name, index, out)
            return out
        with np.errstate(over="ignore"):  # told below, with the image's name
            reader.gather(name, index, out)
        at = first_overflow(out)
        if at is not None:
            image = self.group("index").text("image_id")[int(index[at])]
            largest = float(np.abs(self.gather(name, index[at : at + 1], variant=variant)).max())
            raise FeatureOverflow(
                f"image {image}, column {name}: a value is too large for float16 (largest "
                f"magnitude {largest:g}). Read it as float32."
            )
        return out

    def prefetch(self, name: str, rows: Array, *, variant: str = "") -> None:
        """Hint that these rows will be gathered soon."""
        self._reader(name, variant, "dense").rows(name).prefetch(checked_rows(rows, len(self)))

    # Ids and splits

    def rows(self, image_ids: Iterable[str]) -> Index:
        """Return the row of each image id.

        Raises: UnknownName: an id that the store does not have.
        """
        return self._image_ids.rows(image_ids)

    def caption_ids(self, caption_ids: Iterable[str]) -> Index:
        """Return the row of each caption id.

        Raises: UnknownName: an id that the store does not have.
        """
        return self._caption_ids.rows(caption_ids)

    @functools.cached_property
    def _image_ids(self) -> IdTable:
        return IdTable("image id", self.group("index").text("image_id").tolist())

    @functools.cached_property
    def _caption_ids(self) -> IdTable:
        return IdTable("caption id", self.group("index").text("caption_id").tolist())

    @functools.cached_property
    def skipped(self) -> dict[str, str]:
        """Images that could not be used: id -> reason. They are in no split."""
        if not self.has("skipped"):
            return {}
        column, ids = self.coded("skipped"), self.group("index").text("image_id")
        if column.names == [""]:
            return {}
        rows = np.flatnonzero(~self._usable)
        return {ids[row]: column.names[column.codes[row]] for row in rows.tolist()}

    @functools.cached_property
    def _usable(self) -> npt.NDArray[np.bool_]:
        if not self.has("skipped"):
            return np.ones(len(self), bool)
        column = self.coded("skipped")
        return np.asarray([not name for name in column.names], bool)[column.codes]

    @functools.cached_property
    def splits(self) -> Mapping[str, Index]:
        """Split name -> rows of its images, ascending; skipped images left out. Read-only."""
        column = self.coded("split")
        found = {
            name: np.flatnonzero((column.codes == code) & self._usable)
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
            raise UnknownName.of("split", split, self.splits)
        first, last = (int(part[end]) if part[end] else None for end in ("first", "last"))
        return self.image_rows(part["split"])[first:last]

    @functools.cached_property
    def _image_of_caption(self) -> Index:
        offsets = self.offsets("caption_offsets")
        return np.repeat(np.arange(len(self)), np.diff(offsets))

    def caption_rows(self, split: str) -> Index:
        """Return the rows of the captions of a split, ascending (so image by image)."""
        inside = np.zeros(len(self), bool)
        inside[self.image_rows(split)] = True
        return np.flatnonzero(inside[self._image_of_caption])

    def image_of_caption(self, captions: Sequence[int] | Array) -> Index:
        """Return the image row of each caption row.

        Raises: UsageError: a row outside the store.
        """
        image_of = self._image_of_caption
        return image_of[checked_rows(captions, len(image_of), "caption rows")]

    def caption_image_rows(self, split: str) -> Index:
        """Return, per caption of a split, the position of its image among the split's images.

        This is ``caption_to_image`` of ``models.recall``.
        """
        images = self._image_of_caption[self.caption_rows(split)]
        return np.searchsorted(self.image_rows(split), images)

    # Graphs and tables

    def graph(self, image_id: str) -> SceneGraph:
        """Return the visual scene graph of one image.

        Raises: UnknownName: no such image, or it was skipped when the store was built.
        """
        from features.reading.graphs import scene_graph

        row = int(self.rows([image_id])[0])
        if not self._usable[row]:
            raise UnknownName(f"image {image_id!r} was skipped: {self.skipped[image_id]}")
        return scene_graph(self, row, image_id)

    def text(self, caption_id: str) -> TextGraph:
        """Return one parsed caption.

        Raises: UnknownName: no such caption.
        """
        from features.reading.graphs import text_graph

        return text_graph(self, int(self._caption_ids.rows([caption_id])[0]))

    @functools.cached_property
    def images(self) -> pd.DataFrame:
        """Images that can be used: id, file, split, width, height, row."""
        from features.reading.tables import images_table

        return images_table(self)

    @functools.cached_property
    def captions(self) -> pd.DataFrame:
        """Captions of those images: id, text, image, split, row, image_row."""
        from features.reading.tables import captions_table

        return captions_table(self)

    def table(self, name: str) -> pd.DataFrame:
        """Return one kind of fact as a table.

        Args:
            name: ``images``, ``captions``, ``objects``, ``attributes``, ``relations``,
                ``visual_objects`` or ``visual_relations``.

        Raises: UnknownName: no such table.
        """
        from features.reading.tables import make_table

        return make_table(self, name)

    # Batches

    def loader(
        self, split: str, *, batch_size: int, codebook: Codebook | None = None, **options: Any
    ) -> Loader:
        """Return the training batches of a split; see ``features.batches.loader.Loader``."""
        from features.batches.loader import Loader

        return Loader(self, split, batch_size=batch_size, codebook=codebook, **options)

    def image_batches(
        self, split: str, batch_size: int, codebook: Codebook | None = None, **options: Any
    ) -> Iterator[ImageBatch]:
        """Yield each image of a split once, in row order; see ``features.batches.loader``."""
        from features.batches.loader import image_batches

        return image_batches(self, split, batch_size, codebook, **options)

    def caption_batches(
        self, split: str, batch_size: int, codebook: Codebook | None = None, **options: Any
    ) -> Iterator[CaptionBatch]:
        """Yield each caption of a split once, in row order; see ``features.batches.loader``."""
        from features.batches.loader import caption_batches

        return caption_batches(self, split, batch_size, codebook, **options)

    @functools.cached_property
    def codebook(self) -> Codebook:
        """The default codebook of this store, made when first asked for."""
        from features.vocab.codebook import Codebook

        return Codebook.from_store(self)


def _bound(group: str, variant: str) -> str:
    assert group in GROUPS
    return f"{group}@{variant}" if variant else group
