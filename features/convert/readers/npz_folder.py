"""Folders with one .npz or .npy per image.

Self-critical and AoANet: ``cocobu_att/<id>.npz`` with the key ``feat``, boxes in
``cocobu_box/<id>.npy`` beside it. MILVLG: ``<id>.npz`` with ``x`` (n, D) or (D, n), ``bbox``,
``num_bbox``, ``image_h``, ``image_w``. MMF before LMDB: ``<id>.npy`` with ``<id>_info.npy``, a
pickled dict of ``bbox, num_boxes, image_width, image_height``.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import damaged, need_file, need_folder, visible
from features.convert.safe.pickles import BROKEN_ARRAY, load_array
from features.convert.safe.values import brief, integers, real_rows
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections

Table = npt.NDArray[np.generic]
# zipfile raises RuntimeError for an encrypted member
_BROKEN_ZIP = (RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_MAX_BYTES = 1 << 30  # one image; real files have less than a megabyte


class NpzFolder(Source):
    """One folder of arrays; ids are file names without the suffix.

    Args:
        path: the folder.
        boxes: folder of ``<id>.npy`` boxes; by default ``X_box`` beside ``X_att``.
    """

    provides = frozenset({"features"})

    def __init__(self, path: Path | str, *, boxes: Path | str | None = None) -> None:
        super().__init__(need_folder(path))
        files = sorted(visible(self.path, "*.np[yz]"), key=lambda file: file.suffix)  # .npz wins
        found = {file.stem: file for file in files if not file.stem.endswith("_info")}
        self.index = dict(sorted(found.items()))
        if not self.index:
            raise InputError(f"{self.path}: no .npz or .npy file in this folder.")
        whole = self.path.absolute()  # "." has no name
        beside = whole.parent / f"{whole.name.removesuffix('_att')}_box"
        self._boxes = need_folder(boxes) if boxes else (beside if beside.is_dir() else None)
        self.files = visible(self.path, "*.np[yz]")
        if self._boxes is not None:
            self.files += visible(self._boxes, "*.npy")

    def _read(self, key: str) -> Detections:
        path = self.index[key]
        arrays: dict[str, Any] = {}
        if path.suffix == ".npz":
            arrays = _open_npz(path)
            features = _first(arrays, "feat", "x", "features")
            if features is None:
                raise InputError(f"{path}: has {sorted(arrays)}, none of 'feat', 'x', 'features'.")
        else:
            features = load_array(path)
            arrays = self._info(path)
        if not isinstance(features, np.ndarray) or features.ndim not in (1, 2):
            raise InputError(f"{path}: the features are {brief(features)}, not a table (n, D).")
        features = features[None] if features.ndim == 1 else features
        boxes = _first(arrays, "bbox", "boxes")
        if boxes is None and self._boxes is not None:
            boxes = load_array(self._boxes / f"{path.stem}.npy")
        if boxes is not None and not (isinstance(boxes, np.ndarray) and boxes.ndim):
            raise InputError(f"{path}: the boxes are {brief(boxes)}, not an array.")
        stated = _first(arrays, "num_bbox", "num_boxes")
        features, boxes = _fit(str(path), features, boxes, stated)
        size = [arrays.get("image_w", arrays.get("image_width", 0))]
        size += [arrays.get("image_h", arrays.get("image_height", 0))]
        return make_detections(
            str(path), boxes, size=integers(str(path), "image size", size, 2), features=features
        )

    def _info(self, path: Path) -> dict[str, Any]:
        info = path.with_name(f"{path.stem}_info.npy")
        if not info.is_file():
            return {}
        value = load_array(info)
        entry = value.item() if value.ndim == 0 else None
        if not isinstance(entry, dict):
            raise InputError(f"{info}: not a pickled dict.")
        return entry


def _first(arrays: dict[str, Any], *names: str) -> Any:
    return next((arrays[name] for name in names if name in arrays), None)


def _fit(where: str, features: Table, boxes: Table | None, stated: object) -> tuple[Table, Table]:
    """Return features (n, D) and boxes of equal length, zeros where there are none."""
    if features.ndim == 2 and boxes is not None and len(boxes) == len(features):
        count = real_rows(where, stated, len(features))
        return features[:count], boxes[:count]
    count = len(features) if boxes is None else len(boxes)
    if stated is not None:
        (count,) = integers(where, "the number of boxes", [stated], 1)
    if features.ndim == 2 and len(features) != count and features.shape[1] == count:
        features = features.T  # MILVLG writes (D, n)
    if features.ndim != 2 or len(features) != count:
        raise InputError(f"{where}: features {features.shape} do not fit {count} boxes.")
    return features, np.zeros((count, 4), np.float32) if boxes is None else boxes


def _open_npz(path: Path) -> dict[str, Table]:
    """Read the plain arrays of an .npz; object arrays (``info``) are skipped, never unpickled."""
    found: dict[str, Table] = {}
    need_file(path)
    with damaged(f"{path}: not a complete .npz file", *BROKEN_ARRAY, *_BROKEN_ZIP):
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MAX_BYTES:
                raise InputError(f"{path}: unpacks to more than 1 GiB, too much for one image.")
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                try:
                    found[name] = arrays[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
    return found
