"""LMDB feature databases of MMF (Pythia) and of ViLBERT, 12-in-1 and VOLTA.

A value is a pickle. MMF: arrays under ``features, bbox, objects, cls_prob, num_boxes, image_width,
image_height``, keyed by relative path. ViLBERT: base64 of float32 under ``features, boxes,
cls_prob``, keyed by image id, with ``image_w, image_h`` (VOLTA: ``img_w, img_h``). The two are told
apart by the type of ``features``. ``b"keys"`` is a pickled list of all keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.convert.pickles import load_pickle
from features.convert.source import decode_floats, integers, make_detections, match_id, read_names
from features.errors import InputError, MissingDependency, MissingInput
from features.records import Detections

__all__ = ["LmdbFile"]

_MAX_BOXES = 10_000
_KEYS = b"keys"


class LmdbFile:
    """One LMDB environment: a folder with ``data.mdb``, or a single file.

    Args:
        path: the folder or file.
        objects: file of class names; ``objects`` (MMF) or the best column of ``cls_prob`` then
            becomes a label. Bottom-up-attention's ``cls_prob`` has the background as column 0,
            which is left out.

    Raises:
        MissingDependency: the package ``lmdb`` is not installed.
        InputError: not an LMDB file.
    """

    def __init__(self, path: Path | str, *, objects: Path | str | None = None) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise MissingDependency.of("lmdb", "Reading LMDB", "pip install lmdb") from error
        self.path = Path(path)
        data = self.path / "data.mdb" if self.path.is_dir() else self.path
        if not data.is_file():
            raise MissingInput(f"{data}: there is no such file. Check the path.")
        self.notes: list[str] = []
        self.files = [data] if objects is None else [data, Path(objects)]
        self.classes: tuple[str, ...] = () if objects is None else read_names(objects)
        self.predicates: tuple[str, ...] = ()
        try:
            self._env = lmdb.open(
                str(self.path), subdir=self.path.is_dir(), readonly=True, lock=False, max_dbs=0
            )
            self._check_length(data)
            self._keys = {_key_text(key): bytes(key) for key in self._scan()}
        except lmdb.Error as error:
            raise InputError(f"{self.path}: cannot be read as LMDB ({error}).") from error
        if not self._keys:
            raise InputError(f"{self.path}: no image in this database.")
        scored = {"scores"} | ({"labels"} if self.classes else set())
        self.brings = frozenset({"features", "size"} | scored)

    def _check_length(self, data: Path) -> None:
        """Refuse a torn file: LMDB maps it, so that a missing page would kill the process."""
        wanted = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if data.stat().st_size < wanted:
            self._env.close()
            raise InputError(
                f"{data}: {data.stat().st_size} bytes, its pages need {wanted}. The copy is torn."
            )

    def _scan(self) -> Iterator[bytes]:
        with self._env.begin() as transaction:
            yield from (key for key in transaction.cursor().iternext(values=False) if key != _KEYS)

    def close(self) -> None:
        """Close the database; the object cannot be used afterwards."""
        self._env.close()

    def __enter__(self) -> Self:
        """Use as ``with LmdbFile(path) as source``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the database."""
        self.close()

    def ids(self) -> list[str]:
        """Return the keys as text, in the order of the database (sorted bytes)."""
        return list(self._keys)

    def read(self, image_id: str) -> Detections:
        """Return one image's boxes and features.

        Raises: InputError: the value is no plain pickle, or its parts contradict each other.
        """
        import lmdb

        key = match_id(self._keys, image_id, self.path)
        where = f"{self.path}, key {key!r}"
        try:
            with self._env.begin() as transaction:
                value = transaction.get(self._keys[key])
        except lmdb.Error as error:
            raise InputError(f"{where}: cannot be read ({error}).") from error
        entry = load_pickle(bytes(value or b""), where)
        if not isinstance(entry, dict) or "features" not in entry:
            raise InputError(f"{where}: the pickle is no dict with 'features'.")
        if isinstance(entry["features"], (str, bytes)):
            return self._read_vilbert(where, entry)
        return self._read_mmf(where, entry)

    def _read_mmf(self, where: str, entry: dict[str, Any]) -> Detections:
        features = _table(where, entry, "features")
        count = len(features)
        boxes = _table(where, entry, "bbox") if "bbox" in entry else np.zeros((count, 4))
        _check_count(where, entry, count)
        labels = scores = None
        probability = entry.get("cls_prob")
        if isinstance(probability, np.ndarray) and probability.ndim == 2:
            scores, best = _best(probability)
            labels = self._labels(where, best)
        codes = entry.get("objects")
        if codes is not None and self.classes:
            labels = self._labels(where, np.asarray(integers(where, "objects", codes, count)))
        size = _size(where, entry, (("image_width", "image_height"),))
        return make_detections(
            where, boxes, labels=labels, scores=scores, size=size, features=features
        )

    def _read_vilbert(self, where: str, entry: dict[str, Any]) -> Detections:
        (count,) = integers(where, "num_boxes", [entry.get("num_boxes")], 1)
        if not 0 <= count <= _MAX_BOXES:
            raise InputError(f"{where}: num_boxes {count} makes no sense.")
        boxes = decode_floats(_base64(where, entry, "boxes"), (count, 4), f"{where}, 'boxes'")
        field = _base64(where, entry, "features")
        features = decode_floats(field, (count, -1), f"{where}, 'features'")
        labels = scores = None
        if "cls_prob" in entry:
            field = _base64(where, entry, "cls_prob")
            scores, best = _best(decode_floats(field, (count, -1), f"{where}, 'cls_prob'"))
            labels = self._labels(where, best)
        size = _size(where, entry, (("image_w", "image_h"), ("img_w", "img_h")))
        return make_detections(
            where, boxes, labels=labels, scores=scores, size=size, features=features
        )

    def _labels(self, where: str, codes: npt.NDArray[np.generic]) -> list[str] | None:
        if not self.classes:
            return None
        numbers = [int(code) for code in codes]
        for code in numbers:
            if not 0 <= code < len(self.classes):
                raise InputError(f"{where}: class {code} is not in a list of {len(self.classes)}.")
        return [self.classes[code] for code in numbers]


def _key_text(key: bytes) -> str:
    return bytes(key).decode("utf-8", "backslashreplace")


def _best(
    probability: npt.NDArray[np.generic],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return score and class of the best column, the background (column 0) left out."""
    real = np.asarray(probability, dtype=np.float32)[:, 1:]
    if not real.shape[1]:
        return np.ones(len(real), np.float32), np.zeros(len(real), np.int64)
    return real.max(1), real.argmax(1)


def _table(where: str, entry: dict[str, Any], key: str) -> npt.NDArray[np.generic]:
    value = entry[key]
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
        raise InputError(f"{where}: {key!r} is no table of numbers.")
    return value


def _check_count(where: str, entry: dict[str, Any], count: int) -> None:
    if entry.get("num_boxes") is None:
        return
    (said,) = integers(where, "num_boxes", [entry["num_boxes"]], 1)
    if said != count:
        raise InputError(f"{where}: num_boxes is {said}, there are {count} features.")


def _base64(where: str, entry: dict[str, Any], key: str) -> bytes | str:
    value = entry.get(key)
    if not isinstance(value, (bytes, str)):
        raise InputError(f"{where}: {key!r} is no base64 text.")
    return value


def _size(where: str, entry: dict[str, Any], names: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    for width, height in names:
        if entry.get(width) is not None and entry.get(height) is not None:
            return integers(where, "image size", [entry[width], entry[height]], 2)
    return (0, 0)
