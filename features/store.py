"""Open a store: its columns, graphs, tables and batches behind one object."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.batches import CaptionBatch, ImageBatch, Loader, caption_batches, image_batches
from features.errors import UnknownName
from features.inline import table_html
from features.reading import (
    CAPTION_TABLES,
    IMAGE_TABLES,
    Mirror,
    StoreReader,
    captions_table,
    images_table,
    scene_graph,
    text_graph,
    url_of,
)
from features.records import SceneGraph, TextGraph
from features.vocab import Codebook

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Store", "open_store"]


def open_store(path: str | Path, *, backend: str = "auto") -> Store:
    """Open a store for reading.

    Args:
        path: folder of a store (its latest manifest is used) or a store manifest; or its URL, for
            example ``s3://bucket/store``. What is read is copied to ``$SCENESTORE_CACHE`` (default:
            ``~/.cache/scenestore``) first and compared with the hashes of the manifests.
        backend: how rows of large columns are read: ``auto`` (a memory map), ``mmap``, ``pread`` or
            ``h5py``; see ``StoreReader``.

    Raises:
        MissingInput: the path does not exist.
        FormatError: the path is not a store, or a newer release wrote it.
        DamagedError: the manifest differs from what was written.
        StoreError: the URL cannot be read.
        MissingDependency: a package for this kind of URL is not installed.
    """
    if url := url_of(path):
        mirror = Mirror(url)
        return Store(mirror.manifest(), backend=backend, mirror=mirror)
    return Store(Path(path), backend=backend)


class Store(StoreReader):
    """An opened store: what ``StoreReader`` reads, and graphs, tables and batches made from it."""

    def graph(self, image_id: str) -> SceneGraph:
        """Return the visual scene graph of an image.

        Raises: UnknownName: no such image, or it was skipped when the store was built.
        """
        row = int(self.rows([image_id])[0])
        if not self.usable[row]:
            raise UnknownName(f"image {image_id!r} was skipped: {self.skipped[image_id]}")
        return scene_graph(self, row, image_id)

    def text(self, caption_id: str) -> TextGraph:
        """Return a parsed caption.

        Raises: UnknownName: no such caption.
        """
        return text_graph(self, int(self.rows_of_captions([caption_id])[0]))

    def _repr_html_(self) -> str:
        """Return a table for notebooks: images of each split, captions, and columns of features."""
        rows: dict[str, object] = {
            name: f"{len(found):,} images" for name, found in self.splits.items()
        }
        rows["captions"] = f"{len(self.captions):,}"
        if self.has("object_features"):
            rows["features"] = " x ".join(map(str, self.row_shape("object_features")))
        return table_html(repr(self).strip("<>"), rows)

    @functools.cached_property
    def images(self) -> pd.DataFrame:
        """Table of the usable images: id, file, split, width, height, row."""
        return images_table(self)

    @functools.cached_property
    def captions(self) -> pd.DataFrame:
        """Table of the captions of those images: id, text, image, split, row, image_row."""
        return captions_table(self)

    def table(self, name: str) -> pd.DataFrame:
        """Return a table with one fact per row.

        Args:
            name: ``images``, ``captions``, ``objects``, ``attributes``, ``relations``,
                ``visual_objects`` or ``visual_relations``.

        Raises: UnknownName: no such table.
        """
        if name in ("images", "captions"):
            return self.images if name == "images" else self.captions
        if name in CAPTION_TABLES:
            return CAPTION_TABLES[name](self, self.captions)
        if name in IMAGE_TABLES:
            return IMAGE_TABLES[name](self, self.images)
        known = ["images", "captions", *CAPTION_TABLES, *IMAGE_TABLES]
        raise UnknownName.of("table", name, known)

    @functools.cached_property
    def codebook(self) -> Codebook:
        """The default codebook of this store."""
        return Codebook.from_store(self)

    def loader(
        self, split: str, *, batch_size: int, codebook: Codebook | None = None, **options: Any
    ) -> Loader:
        """Return the training batches of a split, see ``features.batches.loader.Loader``.

        Args:
            split: a split or a part of one, see ``image_rows``.
            batch_size: captions per batch.
            codebook: vocabulary of the batches; the store's default one if not given.
            options: of ``Loader``.
        """
        codebook = codebook or self.codebook
        return Loader(self, split, codebook, batch_size=batch_size, **options)

    def image_batches(
        self, split: str, batch_size: int, codebook: Codebook | None = None, **options: Any
    ) -> Iterator[ImageBatch]:
        """Yield each image of a split once, in row order, see ``features.batches.loader``."""
        return image_batches(self, split, batch_size, codebook or self.codebook, **options)

    def caption_batches(
        self, split: str, batch_size: int, codebook: Codebook | None = None, **options: Any
    ) -> Iterator[CaptionBatch]:
        """Yield each caption of a split once, in row order, see ``features.batches.loader``."""
        return caption_batches(self, split, batch_size, codebook or self.codebook, **options)
