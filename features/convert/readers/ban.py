"""HDF5 features of BAN and ReGAT, with the pickled table of image ids.

Fixed: ``image_features`` (N, 36, 2048), ``image_bb`` (N, 36, 4). Adaptive: ``image_features``
(total, 2048), ``image_bb`` (total, 4), ``pos_boxes`` (N, 2), the first and end row of each image.
``{split}36_imgid2idx.pkl`` maps image ids to rows of N. Rows are read one by one, because the file
can be larger than memory.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from features.convert.safe.inputs import damaged, need_file, read_bytes
from features.convert.safe.pickles import load_pickle
from features.convert.safe.values import MAX_BOXES, integers, text_of
from features.convert.source import Source, make_detections
from features.errors import InputError, MissingInput
from features.records import Detections

_MAX_BYTES = 1 << 28  # of one row; real ones have 300 kB


def _hdf5_errors(where: object) -> AbstractContextManager[None]:
    """Turn any error of h5py for a damaged file into an InputError."""
    kinds = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)
    return damaged(f"{where}: not a complete HDF5 file of features", *kinds)


class BanFile(Source):
    """One HDF5 file of BAN or ReGAT.

    Args:
        path: for example ``train36.hdf5``.
        index: pickle of ids; by default ``<stem>_imgid2idx.pkl`` beside the file.

    Raises:
        MissingInput: a file does not exist.
        InputError: not such a file, or a row of the index is outside it.
    """

    provides = frozenset({"features"})

    def __init__(self, path: Path | str, *, index: Path | str | None = None) -> None:
        import h5py

        super().__init__(need_file(path))
        table_path = (
            Path(index) if index else self.path.with_name(f"{self.path.stem}_imgid2idx.pkl")
        )
        if not table_path.is_file():
            raise MissingInput(
                f"{table_path}: there is no such file, which names the rows. Pass it as index."
            )
        with _hdf5_errors(self.path):
            self._file: Any = h5py.File(self.path, "r", locking=False)
        self.files = [self.path, table_path]
        try:
            with _hdf5_errors(self.path):
                self._check()
            self.index = self._read_index(table_path)
        except BaseException:
            self._file.close()
            raise

    def _check(self) -> None:
        """Find the datasets and check their shapes."""
        self._features = self._dataset("image_features", (2, 3))
        self._boxes = self._dataset("image_bb", (self._features.ndim,))
        flat = self._features.ndim == 2
        self._ranges = self._dataset("pos_boxes", (2,)) if flat else None
        if self._boxes.shape[:-1] != self._features.shape[:-1]:
            raise InputError(
                f"{self.path}: image_bb {self._boxes.shape} does not fit image_features "
                f"{self._features.shape}."
            )

    def _read_index(self, path: Path) -> dict[str, int]:
        rows = len(self._features) if self._ranges is None else len(self._ranges)
        table = load_pickle(read_bytes(path), str(path))
        if not isinstance(table, dict):
            raise InputError(f"{path}: the pickle is not a dict of ids and rows.")
        places = integers(str(path), "rows", list(table.values()), len(table))
        if len(set(places)) != len(places) or any(not 0 <= place < rows for place in places):
            raise InputError(f"{path}: rows repeat or lie outside 0 .. {rows - 1}.")
        names = [text_of(str(path), "an image id", name) for name in table]
        ordered = sorted(zip(places, names, strict=True))
        return {key: place for place, key in ordered}

    def close(self) -> None:
        """Close the HDF5 file."""
        self._file.close()

    def _dataset(self, name: str, ranks: tuple[int, ...]) -> Any:
        import h5py

        found = self._file.get(name, getlink=True)
        if isinstance(found, (h5py.ExternalLink, h5py.SoftLink)):
            raise InputError(f"{self.path}: {name!r} is a link; links are not followed.")
        data = self._file.get(name)
        if not isinstance(data, h5py.Dataset) or data.ndim not in ranks:
            raise InputError(f"{self.path}: no dataset {name!r} with {ranks} axes.")
        if data.dtype.kind not in "fiu" or data.external or data.is_virtual:
            raise InputError(f"{self.path}: {name!r} holds no numbers itself.")
        if data.dtype.itemsize * math.prod(data.shape[1:]) > _MAX_BYTES:
            raise InputError(f"{self.path}: a row of {name!r} is {data.shape[1:]}; too large.")
        if data.dtype.itemsize * math.prod(data.chunks or ()) > _MAX_BYTES:
            raise InputError(f"{self.path}: {name!r} has chunks of {data.chunks}; too large.")
        return data

    def _read(self, key: str) -> Detections:
        row = self.index[key]
        where = f"{self.path}, image {key!r}, row {row}"
        with _hdf5_errors(where):
            if self._ranges is None:
                boxes, features = self._boxes[row], self._features[row]
            else:
                start, end = (int(value) for value in self._ranges[row])
                if not 0 <= start <= end <= min(len(self._features), start + MAX_BOXES):
                    raise InputError(f"{where}: pos_boxes {start} .. {end} is outside the file.")
                boxes, features = self._boxes[start:end], self._features[start:end]
        return make_detections(where, boxes, features=features)
