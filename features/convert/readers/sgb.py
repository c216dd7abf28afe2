"""Scene-Graph-Benchmark: ``custom_prediction.json`` with ``custom_data_info.json``.

Predictions are keyed by position; the info file lists the image at each position
(``idx_to_files``), the classes and the predicates (``ind_to_classes``, ``ind_to_predicates``; index
0 is ``__background__``, so labels start at 1).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from features.convert.safe.json_files import JsonItems, read_json
from features.convert.safe.values import integers, json_list, json_object, pick_names
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections

BACKGROUND = "__background__"
PREDICTION, INFO = "custom_prediction.json", "custom_data_info.json"


class SceneGraphBenchmark(Source):
    """Predictions of Scene-Graph-Benchmark; ids are the file names of the images.

    Args:
        path: ``custom_prediction.json`` or its folder.
        info: ``custom_data_info.json``; by default the one in the same folder.
    """

    provides = frozenset({"labels", "scores", "relations"})

    def __init__(self, path: Path | str, info: Path | str | None = None) -> None:
        path = Path(path)
        super().__init__(path / PREDICTION if path.is_dir() else path)
        self._items = JsonItems(self.path)
        info_path = self.path.with_name(INFO) if info is None else Path(info)
        self.files = [self.path, info_path]
        names = json_object(str(info_path), read_json(info_path))
        self.classes = _strings(info_path, names, "ind_to_classes")
        self.predicates = _strings(info_path, names, "ind_to_predicates")
        self.index: dict[str, str] = {}  # id -> key of the prediction
        twice = 0
        for at, file in enumerate(_strings(info_path, names, "idx_to_files")):
            if str(at) not in self._items:
                raise InputError(f"{self.path}: no prediction {at} for {file!r} of {info_path}.")
            key = PurePosixPath(file.replace("\\", "/")).name
            twice += key in self.index
            self.index.setdefault(key, str(at))
        if twice:
            self.notes.append(
                f"{info_path}: {twice} images are listed twice; the first one counts."
            )
        extra = len(self._items) - len(self.index) - twice
        if extra:
            self.notes.append(f"{self.path}: {extra} predictions have no image in {info_path}.")

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, image {key!r}"
        entry = json_object(where, self._items.read(self.index[key]))
        labels = _names(where, entry, "bbox_labels", self.classes)
        predicates = _names(where, entry, "rel_labels", self.predicates)
        pairs = [integers(where, "a pair", p, 2) for p in json_list(where, entry, "rel_pairs")]
        if len(pairs) != len(predicates):
            raise InputError(f"{where}: {len(pairs)} rel_pairs, {len(predicates)} rel_labels.")
        links = [(pair[0], name, pair[1]) for pair, name in zip(pairs, predicates, strict=True)]
        return make_detections(
            where,
            json_list(where, entry, "bbox"),
            labels=labels,
            scores=json_list(where, entry, "bbox_scores"),
            relations=links,
            relation_scores=json_list(where, entry, "rel_scores")
            if "rel_scores" in entry
            else None,
        )


def _strings(path: Path, document: dict[str, object], key: str) -> tuple[str, ...]:
    values = document.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{path}: {key!r} must be a list of names.")
    return tuple(values)


def _names(where: str, entry: dict[str, Any], key: str, names: tuple[str, ...]) -> list[str]:
    listed = json_list(where, entry, key)
    codes = integers(where, key, listed, len(listed))
    if key == "rel_labels" and 0 in codes:
        raise InputError(f"{where}: {key} has a 0, which is no relation.")
    return pick_names(where, key, names, codes)
