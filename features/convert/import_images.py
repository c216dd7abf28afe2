"""Read the images of a source one by one in the shape and type of the store."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.convert.photos import Photos
from features.convert.source import Source
from features.errors import FeatureOverflow, InputError, MissingInput, UnreadableInput
from features.format import MAX_WIDTH, Columns, canonical_json, pack_regions, pack_visual
from features.records import Detections, ImageEntry, Skipped

Features = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class ReadImage:
    """One image as it will be stored.

    Attributes:
        visual: boxes and graph, or why the image is skipped.
        features: (n, D) in the stored type.   unions: (m, D), likewise.
    """

    visual: Detections | Skipped
    features: Features | None = None
    unions: Features | None = None


@dataclass(slots=True)
class ImageReader:
    """The images of one source, in the shape and type of the store.

    Attributes:
        source: the opened source.
        keys: image id of the store -> id in the source.
        max_objects: K.   max_relations: R.   dtype: of the features.
        on_error: ``fail`` or ``skip``.
        photos: for sizes that the source lacks.
    """

    source: Source
    keys: Mapping[str, str]
    max_objects: int
    max_relations: int
    dtype: str
    on_error: str
    photos: Photos | None
    n_read: int = 0
    cut: int = 0
    sizeless: int = 0
    width: int | None = None
    has_unions: bool = False

    def parameters(self, entries: Sequence[ImageEntry]) -> dict[str, object]:
        """Return the parameters that determine the contents, for the keys.

        Photos are represented by name and size in bytes: only their width and height are read.
        """
        found: dict[str, object] = {
            "max_objects": self.max_objects,
            "max_relations": self.max_relations,
            "on_error": self.on_error,
        }
        if self.on_error == "skip":
            found["dtype"] = self.dtype  # determines which images are skipped
        if self.photos is not None:
            photos = canonical_json([self.photos.stamp(entry) for entry in entries])
            found["photos"] = hashlib.sha256(photos.encode("utf-8", "surrogatepass")).hexdigest()
        return found

    def read(self, entry: ImageEntry) -> ReadImage:
        """Return one image in the stored type, or the reason why it is skipped."""
        self.n_read += 1
        key = self.keys.get(entry.id)
        if key is None:
            return ReadImage(Skipped("not in the imported file"))
        try:
            found = self.source.read(key)
            self.cut += len(found.labels) > self.max_objects
            if found.size == (0, 0) and self.photos is not None:
                found = self.photos.sized(found, entry)
            self.sizeless += found.size == (0, 0)
            features = self._narrow(entry.id, "object_features", found.features, self.max_objects)
            unions = self._unions(entry.id, key, found)
            return ReadImage(dataclasses.replace(found, features=None), features, unions)
        except UnreadableInput:  # a later run may succeed: never stored as skipped
            raise
        except (InputError, FeatureOverflow, MissingInput) as error:
            if self.on_error == "fail":
                raise
            return ReadImage(Skipped(str(error)))

    def _unions(self, image_id: str, key: str, found: Detections) -> Features | None:
        """Return the features of the union boxes of the relations that the store keeps."""
        unions = self.source.unions(key)
        if unions is None:
            return None
        self.has_unions = True
        kept = [
            row
            for row, (subject, _, target) in enumerate(found.relations or ())
            if max(subject, target) < self.max_objects
        ]
        return self._narrow(image_id, "union_features", unions[kept], self.max_relations)

    def _narrow(
        self, image_id: str, column: str, values: npt.NDArray[np.generic] | None, limit: int
    ) -> Features | None:
        if values is None:
            return None
        kept = np.asarray(values[:limit], np.float32)
        with np.errstate(over="ignore"):
            narrow: Features = kept.astype(self.dtype)
        if not np.isfinite(narrow).all():
            raise FeatureOverflow(
                f"{self.source.path}: image {image_id!r}, column {column}: a value does not fit "
                f"{self.dtype} (largest {float(np.abs(kept).max()):g}). Import with --dtype "
                "float32, or --on-error skip."
            )
        if len(narrow):
            width = narrow.shape[1]
            where = f"{self.source.path}: image {image_id!r} has {column} of width {width}"
            if not 1 <= width <= MAX_WIDTH:
                raise InputError(f"{where}; 1 to {MAX_WIDTH} can be stored.")
            if self.width not in (None, width):
                raise InputError(f"{where}, the images before it {self.width}.")
            self.width = width
        return narrow

    def pack(
        self, group: str, entries: Sequence[ImageEntry], found: Sequence[ReadImage]
    ) -> Columns:
        """Return the columns of one shard."""
        if group == "visual":
            visual = [image.visual for image in found]
            return pack_visual(visual, self.max_objects, self.max_relations)
        empty = np.zeros((0, self._width()), np.float32)
        return pack_regions(
            [empty if image.features is None else image.features for image in found],
            [empty if image.unions is None else image.unions for image in found],
            self.max_objects,
            self.max_relations,
            dtype=self.dtype,
            dim=self._width(),
            ids=[entry.id for entry in entries],
        )

    def image_bytes(self) -> dict[str, int]:
        """Return the number of bytes of an image in each group."""
        k, r = self.max_objects, self.max_relations
        regions = (k + r) * (self._find_width() or 0) * np.dtype(self.dtype).itemsize
        # an object: box, label, score; a relation: pair, predicate, score, union box
        return {"visual": 24 * k + 32 * r, "regions": regions}

    def _width(self) -> int:
        """Return D."""
        self.width = self.width or self._find_width()
        if self.width is None:
            raise InputError(f"{self.source.path}: no image has a box with features.")
        return self.width

    def _find_width(self) -> int | None:
        """Return D of the first readable image with a box, looking at the wanted ones first."""
        if "features" not in self.source.provides:
            return None
        for key in dict.fromkeys((*self.keys.values(), *self.source.ids())):
            # a broken image is reported, or skipped, when it is read
            with contextlib.suppress(InputError, FeatureOverflow, MissingInput):
                found = self.source.read(key).features
                if found is not None and len(found) and 1 <= found.shape[1] <= MAX_WIDTH:
                    return int(found.shape[1])
        return None

    def notes(self) -> list[str]:
        """Return notes on what was cut or is unknown."""
        notes = []
        if self.cut:
            notes.append(f"{self.cut} images have more than {self.max_objects} boxes; cut to that.")
        if self.sizeless:
            notes.append(f"{self.sizeless} images have the unknown size (0, 0); pass --images-dir.")
        if {"features", "relations"} <= self.source.provides and not self.has_unions:
            notes.append("The source has no features of union boxes: they are zeros.")
        return notes
