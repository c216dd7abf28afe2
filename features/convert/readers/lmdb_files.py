"""LMDB feature databases of MMF (Pythia) and of ViLBERT, 12-in-1 and VOLTA.

A value is a pickle. MMF: arrays under ``features, bbox, objects, cls_prob, num_boxes, image_width,
image_height``, keyed by relative path; ViLBERT's multi-task code: arrays under ``features, boxes,
num_boxes, image_w, image_h``. ViLBERT's released files: base64 of float32 under ``features, boxes,
cls_prob``, keyed by image id, with ``image_w, image_h`` (VOLTA: ``img_w, img_h``). The type of
``features`` tells base64 from arrays. ``b"keys"`` is a pickled list of all keys.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import need_file, read_names
from features.convert.safe.lmdb_process import LmdbProcess
from features.convert.safe.pickles import load_pickle
from features.convert.safe.values import (
    box_count,
    brief,
    decode_floats,
    integers,
    pick_names,
    real_rows,
)
from features.convert.source import Source, make_detections
from features.errors import InputError, MissingDependency
from features.records import Detections

_KEYS = b"keys"
_SIZES = (("image_width", "image_height"), ("image_w", "image_h"), ("img_w", "img_h"))


class LmdbFile(Source):
    """One LMDB environment: a folder with ``data.mdb``, or a single file.

    Args:
        path: the folder or file.
        objects: file of class names; with it, labels come from ``objects`` (MMF) or from the best
            column of ``cls_prob``. Bottom-up-attention's ``cls_prob`` has the background as column
            0, which is skipped; MMF omits that column where ``objects`` is the best column.

    Raises:
        MissingDependency: the package ``lmdb`` is not installed.
        InputError: not an LMDB file.
    """

    def __init__(self, path: Path | str, *, objects: Path | str | None = None) -> None:
        if find_spec("lmdb") is None:
            raise MissingDependency.of("lmdb", "Reading LMDB", "pip install lmdb")
        super().__init__(path)
        data = need_file(self.path / "data.mdb" if self.path.is_dir() else self.path)
        self.files = [data] if objects is None else [data, Path(objects)]
        self.classes = () if objects is None else read_names(objects)
        self._file = LmdbProcess(self.path)
        self.index = {
            key.decode("utf-8", "backslashreplace"): key for key in self._file.keys if key != _KEYS
        }
        if not self.index:
            raise InputError(f"{self.path}: no image in this database.")
        self.provides = frozenset({"features", "size", "scores"})
        self.provides |= {"labels"} if self.classes else set()

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, key {key!r}"
        entry = load_pickle(self._file.get(self.index[key]), where)
        if not isinstance(entry, dict) or "features" not in entry:
            raise InputError(f"{where}: the pickle is not a dict with 'features'.")
        if isinstance(entry["features"], (str, bytes)):
            return self._read_base64(where, entry)
        return self._read_arrays(where, entry)

    def _read_arrays(self, where: str, entry: dict[str, Any]) -> Detections:
        features = _table(where, entry, "features")
        name = next((name for name in ("bbox", "boxes") if name in entry), None)
        if name is None:
            raise InputError(
                f"{where}: 'features' without 'bbox' (MMF) or 'boxes' (ViLBERT); it has "
                f"{brief(sorted(map(str, entry)))}. Write the boxes into the database."
            )
        boxes = _table(where, entry, name)
        rows = len(features)
        if len(boxes) != rows:
            raise InputError(f"{where}: {len(boxes)} boxes, there are {rows} features.")
        count = real_rows(where, entry.get("num_boxes"), rows)
        codes, probability = entry.get("objects"), entry.get("cls_prob")
        labels = scores = None
        if isinstance(probability, np.ndarray) and probability.ndim == 2:
            table = _table(where, entry, "cls_prob")
            scores, best = _best(table, background=not _chosen(codes, table))
            scores, labels = scores[:count], self._labels(where, best[:count])
        if codes is not None and self.classes:
            numbers = integers(where, "objects", codes, rows)
            labels = self._labels(where, np.asarray(numbers[:count]))
        return make_detections(
            where,
            boxes[:count],
            labels=labels,
            scores=scores,
            size=_size(where, entry),
            features=features[:count],
        )

    def _read_base64(self, where: str, entry: dict[str, Any]) -> Detections:
        count = box_count(where, entry.get("num_boxes"))
        boxes = _floats(where, entry, "boxes", (count, 4))
        features = _floats(where, entry, "features", (count, -1))
        labels = scores = None
        if "cls_prob" in entry:
            scores, best = _best(_floats(where, entry, "cls_prob", (count, -1)))
            labels = self._labels(where, best)
        size = _size(where, entry)
        return make_detections(
            where, boxes, labels=labels, scores=scores, size=size, features=features
        )

    def _labels(self, where: str, codes: npt.NDArray[np.generic]) -> list[str] | None:
        return pick_names(where, "class", self.classes, map(int, codes)) if self.classes else None


def _best(
    probability: npt.NDArray[np.generic], *, background: bool = True
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return score and class of the best column, without the background (column 0)."""
    real = np.asarray(probability, dtype=np.float32)[:, 1 if background else 0 :]
    if not real.shape[1]:
        return np.ones(len(real), np.float32), np.zeros(len(real), np.int64)
    return real.max(1), real.argmax(1)


def _chosen(codes: object, probability: npt.NDArray[np.generic]) -> bool:
    """Return whether ``objects`` is the best of all columns; none is then the background.

    Later versions of MMF write both without the background. Earlier ones keep it in ``cls_prob``
    alone, where ``objects`` is one less than the best column.
    """
    if not isinstance(codes, np.ndarray) or not probability.size:
        return False
    return np.array_equal(codes, probability.argmax(1))


def _table(where: str, entry: dict[str, Any], key: str) -> npt.NDArray[np.generic]:
    value = entry[key]
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
        raise InputError(f"{where}: {key!r} is not a table of numbers.")
    return value


def _floats(
    where: str, entry: dict[str, Any], key: str, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    value = entry.get(key)
    if not isinstance(value, (bytes, str)):
        raise InputError(f"{where}: {key!r} is not base64 text.")
    return decode_floats(value, shape, f"{where}, {key!r}")


def _size(where: str, entry: dict[str, Any]) -> tuple[int, ...]:
    for width, height in _SIZES:
        if entry.get(width) is not None and entry.get(height) is not None:
            return integers(where, "image size", [entry[width], entry[height]], 2)
    return (0, 0)
