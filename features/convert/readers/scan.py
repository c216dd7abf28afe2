"""SCAN's precomputed folders, with the extra files of GSMN if present.

``{split}_ims.npy`` (rows, regions, D), ``{split}_caps.txt`` one caption per line,
``{split}_ids.txt`` one image id per line. An image has five captions. Rows are one per image, or
one per caption with every image five times in a row; the number of captions tells which. GSMN adds
``{split}_ims_bbx.npy`` (rows, regions, 4) xyxy pixels and ``{split}_ims_size.npy``, an object array
of ``{"image_h", "image_w"}``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.convert.readers.gsmn_text import read_graphs
from features.convert.safe.inputs import BOM, need_folder, read_bytes
from features.convert.safe.pickles import load_array
from features.convert.safe.values import integers
from features.convert.source import Source, make_detections
from features.errors import InputError, MissingInput
from features.records import Caption, Detections, ImageEntry, TextGraph

__all__ = ["CAPTIONS_PER_IMAGE", "ScanData", "ScanFolder", "scan_splits"]

CAPTIONS_PER_IMAGE = 5
_NAMES = {"dev": "val", "testall": "test"}  # SCAN's name -> ours


def scan_splits(folder: Path | str) -> list[str]:
    """Return the splits of a folder, train first; ``test`` is left out beside ``testall``.

    COCO's ``test`` is the first fifth of ``testall``.

    Raises: MissingInput: no ``*_ims.npy`` in the folder.
    """
    folder = need_folder(folder)
    found = {path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy")}
    if not found:
        raise MissingInput(f"{folder}: no *_ims.npy in this folder. Is it f30k_precomp?")
    if "testall" in found:
        found.discard("test")
    order = ["train", "dev", "test", "testall"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else 9, name))


class ScanFolder(Source):
    """One split of a precomputed folder.

    Ids are the lines of ``{split}_ids.txt``; without that file, ``{split}-{row}``. Ids that repeat
    for each caption are taken once.

    Args:
        folder: for example ``f30k_precomp``.
        split: SCAN's name: train, dev, test, testall.

    Raises:
        MissingInput: no such split.
        InputError: lengths that do not match, or not five captions per image.
    """

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(need_folder(folder))
        self.split = split
        self.files = sorted(file for file in self.path.glob(f"{split}_*") if file.is_file())
        self._features = load_array(self.path / f"{split}_ims.npy")
        shape = self._features.shape
        if len(shape) != 3 or not shape[2] or self._features.dtype.kind != "f":
            found = f"{self._features.dtype} {shape}"
            raise InputError(f"{self._name('ims.npy')}: {found} is not float (rows, regions, D).")
        self.texts = self._read_lines("caps.txt")
        rows, captions = len(self._features), len(self.texts)
        copies = {captions: CAPTIONS_PER_IMAGE, captions // CAPTIONS_PER_IMAGE: 1}
        if captions % CAPTIONS_PER_IMAGE or not captions or rows not in copies:
            raise InputError(
                f"{self._name('ims.npy')}: {rows} rows for {captions} captions; expected five "
                "captions per image and one row per image or per caption."
            )
        self._copies = copies[rows]
        self._images = captions // CAPTIONS_PER_IMAGE
        self.index = {key: row for row, key in enumerate(self._read_ids())}
        self._boxes = self._optional("ims_bbx.npy", (shape[1], 4), "fiu")
        self._sizes = self._optional("ims_size.npy", (), "O")
        self.provides = frozenset({"features"} | ({"size"} if self._sizes is not None else set()))
        if self._boxes is None:
            self.notes.append(
                f"{self.path}: {split} has no boxes (*_ims_bbx.npy): all boxes are zeros."
            )

    def _name(self, suffix: str) -> Path:
        return self.path / f"{self.split}_{suffix}"

    def _read_lines(self, suffix: str) -> list[str]:
        """Return the lines of a text file, split at line feeds only, as in the released code."""
        path = self._name(suffix)
        raw = read_bytes(path).removeprefix(BOM).split(b"\n")
        if not raw[-1].strip():
            raw.pop()
        lines = []
        for at, line in enumerate(raw, 1):
            try:
                lines.append(line.decode("utf-8").strip())
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {at}: not UTF-8 text ({error}).") from error
        return lines

    def _read_ids(self) -> list[str]:
        path = self._name("ids.txt")
        if not path.is_file():
            self.notes.append(
                f"{path}: missing; images are named {self.split}-0, {self.split}-1 ..."
            )
            return [f"{self.split}-{row}" for row in range(self._images)]
        ids = self._read_lines("ids.txt")
        if len(ids) == self._images * CAPTIONS_PER_IMAGE:
            ids = ids[::CAPTIONS_PER_IMAGE]
        if len(ids) != self._images or len(set(ids)) != len(ids):
            raise InputError(
                f"{path}: {len(ids)} ids, {len(set(ids))} different, for {self._images} images."
            )
        return ids

    def _optional(
        self, suffix: str, row: tuple[int, ...], kinds: str
    ) -> npt.NDArray[np.generic] | None:
        path = self._name(suffix)
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

    def read(self, image_id: str) -> Detections:
        """Return one image's features, with boxes and size if GSMN's files are present."""
        key = self.key(image_id)
        image = self.index[key]
        where = f"{self._name('ims.npy')}, image {key!r}, row {image * self._copies}"
        features = self._features[image * self._copies]
        boxes = np.zeros((len(features), 4), np.float32)
        if self._boxes is not None:
            boxes = np.asarray(self._boxes[self._row(self._boxes, image)], dtype=np.float32)
        return make_detections(where, boxes, size=self._size(image, where), features=features)

    def _row(self, array: npt.NDArray[np.generic], image: int) -> int:
        return image * (len(array) // self._images)

    def _size(self, image: int, where: str) -> tuple[int, ...]:
        if self._sizes is None:
            return (0, 0)
        entry: object = self._sizes[self._row(self._sizes, image)]
        if not isinstance(entry, dict) or not {"image_w", "image_h"} <= set(entry):
            raise InputError(f"{where}: the size is not a dict with image_h and image_w.")
        return integers(where, "image size", [entry["image_w"], entry["image_h"]], 2)

    def images(self) -> list[ImageEntry]:
        """Return the images with their captions, under our names of splits (dev -> val)."""
        entries = []
        split = _NAMES.get(self.split, self.split)
        for key, row in self.index.items():
            at = row * CAPTIONS_PER_IMAGE
            texts = self.texts[at : at + CAPTIONS_PER_IMAGE]
            captions = [Caption(f"{key}#{n}", text) for n, text in enumerate(texts)]
            entries.append(ImageEntry(key, "", split, tuple(captions)))
        return entries


class ScanData(Source):
    """All splits of a precomputed folder as one source.

    If an id occurs in several splits (row numbers, for example), all ids become ``SPLIT-ID``.

    Args:
        path: for example ``f30k_precomp``.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(need_folder(path))
        self.folders = {name: ScanFolder(self.path, name) for name in scan_splits(self.path)}
        every = list(self.folders.values())
        ids = [key for folder in every for key in folder.ids()]
        shared = len(set(ids)) < len(ids)
        self.index: dict[str, tuple[ScanFolder, str]] = {
            f"{name}-{key}" if shared else key: (folder, key)
            for name, folder in self.folders.items()
            for key in folder.ids()
        }
        self.notes = [note for folder in every for note in folder.notes]
        self.files = [file for folder in every for file in folder.files]
        self.files += sorted(self.path.glob("*_vocab.json"))
        if shared:
            self.notes.append(f"{self.path}: splits share ids; they became SPLIT-ID.")
        self.provides = frozenset.intersection(*(folder.provides for folder in every))

    def read(self, image_id: str) -> Detections:
        """Return one image's features, with boxes and size if GSMN's files are present."""
        folder, key = self.index[self.key(image_id)]
        return folder.read(key)

    def images(self) -> list[ImageEntry]:
        """Return all images with their captions."""
        found = (entry for folder in self.folders.values() for entry in folder.images())
        return [
            ImageEntry(
                key,
                "",
                entry.split,
                tuple(
                    Caption(f"{key}#{at}", caption.text)
                    for at, caption in enumerate(entry.captions)
                ),
            )
            for key, entry in zip(self.index, found, strict=True)
        ]

    def tokens(self) -> dict[str, TextGraph] | None:
        """Return caption id -> tokens and heads; None unless every split has GSMN's files."""
        graphs: list[TextGraph] = []
        for name, folder in self.folders.items():
            found = read_graphs(self.path, name, folder.texts)
            if found is None:
                return None
            graphs += found
        captions = (caption for entry in self.images() for caption in entry.captions)
        return {caption.id: graph for caption, graph in zip(captions, graphs, strict=True)}
