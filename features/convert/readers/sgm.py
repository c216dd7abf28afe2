"""Scene graphs of SGM as JSON, with region and union features as one .npy per image.

``{"object_dict": {name: id}, "predicate_dict": {name: id}, "img_to_sg": [{"filename",
"filepath", "imageid", "sg": {"object": [class id], "bbox": [[x1, y1, x2, y2]], "relationship":
[[subject row, predicate id, object row]]}}]}``. The lists are padded with -1 and end at the first
one. ``<row>.npy`` has the features of the image at that position of ``img_to_sg``: of objects in
one folder, of union boxes, row i for relationship i, in the other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import need_folder, visible
from features.convert.safe.json_files import read_json
from features.convert.safe.pickles import load_array
from features.convert.safe.values import integers, json_list, text_of
from features.convert.source import Source, make_detections
from features.errors import FeatureOverflow, InputError, UsageError
from features.records import Detections

Array = npt.NDArray[np.generic]
_PADDING = [-1, -1, -1]


class SgmFile(Source):
    """One graph file of SGM, with features if their folders are given.

    Ids are file names, or positions where the file has no names.

    Args:
        path: for example ``flickr30k_train_image_sg_by_NeuralMotifs_36_25.json``.
        objects_dir: folder of ``<row>.npy`` with object features.
        unions_dir: folder of ``<row>.npy`` with features of union boxes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        objects_dir: Path | str | None = None,
        unions_dir: Path | str | None = None,
    ) -> None:
        super().__init__(path)
        document = read_json(self.path)
        if not isinstance(document, dict) or not isinstance(document.get("img_to_sg"), list):
            raise InputError(
                f"{self.path}: not a graph file of SGM, which has the list 'img_to_sg'."
            )
        self._class_of = _names(self.path, document, "object_dict")
        self._predicate_of = _names(self.path, document, "predicate_dict")
        self.classes = tuple(name for _, name in sorted(self._class_of.items()))
        self.predicates = tuple(name for _, name in sorted(self._predicate_of.items()))
        self.index: dict[str, tuple[int, dict[str, object]]] = {}
        for at, item in enumerate(document["img_to_sg"]):
            if not isinstance(item, dict) or not isinstance(item.get("sg"), dict):
                raise InputError(f"{self.path}: img_to_sg[{at}] has no graph 'sg'.")
            key = text_of(f"{self.path}: img_to_sg[{at}]", "filename", item.get("filename", at))
            if key in self.index:
                raise InputError(f"{self.path}: image {key!r} is listed twice in img_to_sg.")
            self.index[key] = at, item["sg"]
        if unions_dir is not None and objects_dir is None:
            raise UsageError(
                f"{unions_dir}: features of union boxes are stored with those of objects only; "
                "pass objects_dir, too."
            )
        self._objects = None if objects_dir is None else need_folder(objects_dir)
        self._unions = None if unions_dir is None else need_folder(unions_dir)
        self.files = [self.path]
        for folder in (self._objects, self._unions):
            self.files += [] if folder is None else visible(folder, "*.npy")
        if not all("bbox" in graph for _, graph in self.index.values()):
            self.notes.append(f"{self.path}: some graphs have no boxes; those boxes are zeros.")
        self.provides = frozenset({"labels", "relations"})
        self.provides |= {"features"} if self._objects else set()

    def _read(self, key: str) -> Detections:
        at, graph = self.index[key]
        where = f"{self.path}, image {key!r}"
        if not {"object", "relationship"} <= graph.keys():
            raise InputError(f"{where}: 'sg' needs the lists 'object' and 'relationship'.")
        objects = json_list(where, graph, "object")
        relations = json_list(where, graph, "relationship")
        codes = integers(where, "'object'", objects, len(objects))
        count = codes.index(-1) if -1 in codes else len(codes)
        labels = [_name(where, "object", self._class_of, code) for code in codes[:count]]
        links = []
        for item in relations[: _real(relations)]:
            subject, predicate, target = integers(where, "a relationship", item, 3)
            name = _name(where, "predicate", self._predicate_of, predicate)
            links.append((subject, name, target))
        boxes = graph.get("bbox", [[0, 0, 0, 0]] * count)
        if not isinstance(boxes, list) or len(boxes) < count:
            raise InputError(f"{where}: fewer boxes than the {count} objects.")
        features = None
        if self._objects is not None:
            features = _load(self._objects / f"{at}.npy", count, where)
        return make_detections(
            where, boxes[:count], labels=labels, features=features, relations=links
        )

    def unions(self, image_id: str) -> Array | None:
        """Return the features of the union boxes; None without their folder."""
        key = self.key(image_id)
        at, graph = self.index[key]
        if self._unions is None:
            return None
        relations = graph.get("relationship")
        count = _real(relations) if isinstance(relations, list) else 0
        return _load(self._unions / f"{at}.npy", count, f"{self.path}, image {key!r}")


def _real(relations: list[object]) -> int:
    return relations.index(_PADDING) if _PADDING in relations else len(relations)


def _load(path: Path, count: int, where: str) -> Array:
    features = load_array(path)
    if features.ndim != 2 or len(features) < count or features.dtype.kind != "f":
        raise InputError(f"{where}: {path} is {features.shape}, expected ({count} or more, D).")
    rows = features[:count]
    if not np.isfinite(np.asarray(rows, np.float32)).all():
        raise FeatureOverflow(f"{where}: the features of {path} have a value that is not finite.")
    return rows


def _name(where: str, what: str, names: dict[int, str], code: int) -> str:
    if code not in names:
        raise InputError(f"{where}: {what} id {code} is not in {what}_dict.")
    return names[code]


def _names(path: Path, document: dict[str, object], key: str) -> dict[int, str]:
    """Read a table of classes: {name: id}, {"id": name} or a list of names."""
    table = document.get(key)
    where = f"{path}, {key!r}"
    if isinstance(table, list):
        return {at: text_of(where, "a name", name) for at, name in enumerate(table)}
    if not isinstance(table, dict):
        raise InputError(f"{where}: expected a table of names and ids.")
    if all(type(value) is int for value in table.values()):  # true is not an id
        codes = integers(where, "the ids", list(table.values()), len(table))
        return dict(zip(codes, table, strict=True))
    codes = integers(where, "the ids", list(table), len(table))
    names = [text_of(where, "a name", name) for name in table.values()]
    return dict(zip(codes, names, strict=True))
