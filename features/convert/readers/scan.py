"""SCAN's precomputed folders, with the extra files of GSMN if present.

``{split}_ims.npy`` (rows, regions, D), ``{split}_caps.txt`` one caption per line,
``{split}_ids.txt`` one image id per line. An image has five captions, and rows are one per image,
or one per caption with every image five times in a row. With as many rows as captions, the image
ids, or else the features, tell whether five rows are one image, or each row is an image with one
caption of its own (data sets with one caption per image). GSMN adds
``{split}_ims_bbx.npy`` (rows, regions, 4) xyxy pixels and ``{split}_ims_size.npy``, an object array
of ``{"image_h", "image_w"}``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.convert.readers.gsmn_text import read_graphs
from features.convert.safe.inputs import BOM, damaged, need_folder, read_bytes, visible
from features.convert.safe.pickles import load_array
from features.convert.safe.values import integers
from features.convert.source import Source, make_detections
from features.errors import InputError, MissingInput
from features.records import Caption, Detections, ImageEntry, TextGraph

CAPTIONS_PER_IMAGE = 5
_NAMES = {"dev": "val", "testall": "test"}  # SCAN's name -> ours
_ORDER = ("train", "dev", "test", "testall")


class ScanData(Source):
    """The splits of a precomputed folder; ``test`` is left out beside ``testall``.

    COCO's ``test`` is the first fifth of ``testall``. If an id occurs in several splits (row
    numbers, for example), all ids become ``SPLIT-ID``.

    Args:
        path: for example ``f30k_precomp``.

    Raises:
        MissingInput: no ``*_ims.npy`` in the folder.
        InputError: lengths that do not match, or neither one nor five captions per image.
    """

    numbered = True

    def __init__(self, path: Path | str) -> None:
        super().__init__(need_folder(path))
        found = {file.name.removesuffix("_ims.npy") for file in visible(self.path, "*_ims.npy")}
        if not found:
            raise MissingInput(f"{self.path}: no *_ims.npy in this folder. Is it f30k_precomp?")
        if "testall" in found:
            found.discard("test")
        names = sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else 9, name))
        self.splits = [_Split(self.path, name) for name in names]
        ids = [key for split in self.splits for key in split.ids]
        shared = len(set(ids)) < len(ids)
        self.index: dict[str, tuple[_Split, int]] = {
            f"{split.name}-{key}" if shared else key: (split, row)
            for split in self.splits
            for row, key in enumerate(split.ids)
        }
        self.notes = [note for split in self.splits for note in split.notes]
        self.files = [file for split in self.splits for file in split.files]
        self.files += visible(self.path, "*_vocab.json")
        if shared:
            self.notes.append(f"{self.path}: splits share ids; they became SPLIT-ID.")
        sized = all(split.sizes is not None for split in self.splits)
        self.provides = frozenset({"features", "size"} if sized else {"features"})

    def _read(self, key: str) -> Detections:
        split, row = self.index[key]
        return split.read(row)

    def images(self) -> list[ImageEntry]:
        """Return all images with their captions, under our names of splits (dev -> val)."""
        entries = []
        for key, (split, row) in self.index.items():
            at = row * split.per_image
            texts = split.texts[at : at + split.per_image]
            captions = tuple(Caption(f"{key}#{n}", text) for n, text in enumerate(texts))
            entries.append(ImageEntry(key, "", _NAMES.get(split.name, split.name), captions))
        return entries

    def tokens(self) -> dict[str, TextGraph] | None:
        """Return caption id -> tokens and heads; None unless every split has GSMN's files."""
        graphs: list[TextGraph] = []
        for split in self.splits:
            found = read_graphs(self.path, split.name, split.texts)
            if found is None:
                return None
            graphs += found
        captions = (caption for entry in self.images() for caption in entry.captions)
        return {caption.id: graph for caption, graph in zip(captions, graphs, strict=True)}


class _Split:
    """The files of one split.

    Ids are the lines of ``{split}_ids.txt``; without that file, ``{split}-{row}``. Ids that repeat
    for each caption are taken once.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.notes: list[str] = []
        self.files = [file for file in visible(folder, f"{name}_*") if file.is_file()]
        self._features = load_array(self._path("ims.npy"))
        shape = self._features.shape
        if len(shape) != 3 or not shape[2] or self._features.dtype.kind != "f":
            found = f"{self._features.dtype} {shape}"
            raise InputError(f"{self._path('ims.npy')}: {found} is not float (rows, regions, D).")
        self.texts = self._read_lines("caps.txt")
        rows, captions = len(self._features), len(self.texts)
        known = self._path("ids.txt").is_file()
        ids = self._read_lines("ids.txt") if known else []
        self.per_image = CAPTIONS_PER_IMAGE
        if rows == captions and (len(set(ids)) == rows if known else not self._fivefold()):
            self.per_image = 1
        self._images = captions // self.per_image
        if captions % self.per_image or not captions or rows not in (captions, self._images):
            raise InputError(
                f"{self._path('ims.npy')}: {rows} rows for {captions} captions; expected five "
                "captions per image and one row per image or per caption."
            )
        self.ids = self._checked(ids) if known else self._made_up()
        if rows == captions != self._images and not self._fivefold():
            raise InputError(
                f"{self._path('ims.npy')}: a row per caption, but the five rows of an image differ "
                f"from each other. With one caption per image, {self._path('ids.txt').name} needs "
                "an id per row."
            )
        alike = rows > 1 and np.array_equal(self._features[0], self._features[1], equal_nan=True)
        if self.per_image == 1 and not known and alike:
            raise InputError(
                f"{self._path('ims.npy')}: a row per caption, and the first two are equal: are "
                f"they of one image? {self._path('ids.txt').name} needs the id of every row."
            )
        self._boxes = self._optional("ims_bbx.npy", (shape[1], 4), "fiu")
        self.sizes = self._optional("ims_size.npy", (), "O")
        if self._boxes is None:
            self.notes.append(
                f"{folder}: {name} has no boxes (*_ims_bbx.npy): all boxes are zeros."
            )

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}_{suffix}"

    def _read_lines(self, suffix: str) -> list[str]:
        """Return the lines of a text file, split at line feeds only, as in the released code."""
        path = self._path(suffix)
        raw = read_bytes(path).removeprefix(BOM).split(b"\n")
        if not raw[-1].strip():
            raw.pop()
        lines = []
        for at, line in enumerate(raw, 1):
            with damaged(f"{path}, line {at}: not UTF-8 text", UnicodeDecodeError):
                lines.append(line.decode("utf-8").strip())
        return lines

    def _fivefold(self) -> bool:
        """Return whether each five rows have equal features, looking at some of them."""
        n = len(self._features) // CAPTIONS_PER_IMAGE
        starts = {image * CAPTIONS_PER_IMAGE for image in (*range(min(n, 20)), *range(0, n, 97))}
        return len(self._features) % CAPTIONS_PER_IMAGE == 0 and all(
            np.array_equal(self._features[at], self._features[at + step], equal_nan=True)
            for at in starts
            for step in range(1, CAPTIONS_PER_IMAGE)
        )

    def _made_up(self) -> list[str]:
        path = self._path("ids.txt")
        self.notes.append(f"{path}: missing; images are named {self.name}-0, {self.name}-1 ...")
        return [f"{self.name}-{row}" for row in range(self._images)]

    def _checked(self, ids: list[str]) -> list[str]:
        path = self._path("ids.txt")
        if len(ids) == self._images * CAPTIONS_PER_IMAGE:
            first = ids[::CAPTIONS_PER_IMAGE]
            if ids == [key for key in first for _ in range(CAPTIONS_PER_IMAGE)]:
                ids = first
        if len(ids) != self._images or len(set(ids)) != len(ids):
            raise InputError(
                f"{path}: {len(ids)} ids, {len(set(ids))} different, for {self._images} images."
            )
        return ids

    def _optional(
        self, suffix: str, row: tuple[int, ...], kinds: str
    ) -> npt.NDArray[np.generic] | None:
        path = self._path(suffix)
        if not path.is_file():
            return None
        array = load_array(path)
        rows = (len(self._features), self._images)
        if len(array.shape) == 0 or len(array) not in rows or array.shape[1:] != row:
            raise InputError(f"{path}: shape {array.shape} does not match {rows[0]} rows.")
        if array.dtype.kind not in kinds:
            wanted = "a dict per row" if kinds == "O" else "numbers"
            raise InputError(f"{path}: has {array.dtype}, expected {wanted}.")
        return array

    def read(self, image: int) -> Detections:
        row = image * (len(self._features) // self._images)
        where = f"{self._path('ims.npy')}, image {self.ids[image]!r}, row {row}"
        features = self._features[row]
        boxes = np.zeros((len(features), 4), np.float32)
        if self._boxes is not None:
            boxes = np.asarray(self._at(self._boxes, image), dtype=np.float32)
        size: tuple[int, ...] = (0, 0)
        if self.sizes is not None:
            entry = self._at(self.sizes, image)
            if not isinstance(entry, dict) or not {"image_w", "image_h"} <= set(entry):
                raise InputError(f"{where}: the size is not a dict with image_h and image_w.")
            size = integers(where, "image size", [entry["image_w"], entry["image_h"]], 2)
        return make_detections(where, boxes, size=size, features=features)

    def _at(self, array: npt.NDArray[np.generic], image: int) -> Any:
        """Return the row of an image in an array with a row per image or per caption."""
        return array[image * (len(array) // self._images)]
