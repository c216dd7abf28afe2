"""Scene graphs as JSON: the files of LGSGM and of SGM.

LGSGM: ``{file name: {"labels": [n], "bbox": [[x1, y1, x2, y2]], "rels": [["man:1", "wearing",
"hat:0"]]}}``; the number behind a label is the row of the box. SGM: ``{"object_dict",
"predicate_dict", "img_to_sg": [{"sg": {"object": [class id, -1 pads], "relationship": [[subject
row, predicate id, object row], [-1, -1, -1] pads]}}]}``, which has no boxes.

API::

    graphs = SceneGraphFile(path)      # tells the two layouts apart by their keys
    graphs.ids()                       # image ids, in file order; SGM without names: "0", "1" ...
    graphs.read(image_id)              # Detections; finds "1.jpg" for "1" and the other way round
    graphs.brings, graphs.classes, graphs.predicates, graphs.notes
    write_scene_graphs(path, items)    # LGSGM layout, items = (file name, SceneGraph)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from features.convert.source import integers, make_detections, match_id, read_json
from features.errors import InputError
from features.records import Detections, SceneGraph

__all__ = ["SceneGraphFile", "write_scene_graphs"]

Relations = list[tuple[int, str, int]]


class SceneGraphFile:
    """One scene graph file of LGSGM or SGM.

    Args:
        path: the JSON file.

    Raises: InputError: the file has neither layout.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.files = [self.path]
        document = read_json(self.path)
        if not isinstance(document, dict):
            raise InputError(f"{self.path}: a scene graph file is a JSON object.")
        self._sgm = "img_to_sg" in document
        self.classes: tuple[str, ...] = ()
        self.predicates: tuple[str, ...] = ()
        if self._sgm:
            self._class_of = _names(self.path, document, "object_dict")
            self._predicate_of = _names(self.path, document, "predicate_dict")
            self.classes = tuple(name for _, name in sorted(self._class_of.items()))
            self.predicates = tuple(name for _, name in sorted(self._predicate_of.items()))
            self.notes.append("SGM graphs have no boxes: all boxes are zeros.")
            self._entries = _sgm_entries(self.path, document["img_to_sg"])
        else:
            self._entries = document
        self.brings = frozenset({"labels", "relations"})

    def ids(self) -> list[str]:
        """Return the image ids in file order."""
        return list(self._entries)

    def read(self, image_id: str) -> Detections:
        """Return one image's graph; sizes and scores are unknown: (0, 0) and ones."""
        key = match_id(self._entries, image_id, self.path)
        where = f"{self.path}, image {key!r}"
        entry = self._entries[key]
        if not isinstance(entry, dict):
            raise InputError(f"{where}: a graph must be a JSON object.")
        return self._read_sgm(where, entry) if self._sgm else _read_lgsgm(where, entry)

    def _read_sgm(self, where: str, entry: dict[str, object]) -> Detections:
        objects, relations = entry.get("object"), entry.get("relationship")
        if not isinstance(objects, list) or not isinstance(relations, list):
            raise InputError(f"{where}: 'sg' needs the lists 'object' and 'relationship'.")
        padded = integers(where, "'object'", objects, len(objects))
        real = [row for row, code in enumerate(padded) if code != -1]
        row_of = {row: at for at, row in enumerate(real)}
        labels = [self._name(where, "object", self._class_of, padded[row]) for row in real]
        links: Relations = []
        for item in relations:
            subject, predicate, target = integers(where, "a relationship", item, 3)
            if subject == predicate == target == -1:
                continue
            if subject not in row_of or target not in row_of:
                raise InputError(f"{where}: relationship {item} points at no object.")
            name = self._name(where, "predicate", self._predicate_of, predicate)
            links.append((row_of[subject], name, row_of[target]))
        return make_detections(
            where, np.zeros((len(labels), 4), np.float32), labels=labels, relations=links
        )

    def _name(self, where: str, what: str, names: dict[int, str], code: int) -> str:
        if code not in names:
            raise InputError(f"{where}: {what} id {code} is not in {what}_dict.")
        return names[code]


def _read_lgsgm(where: str, entry: dict[str, object]) -> Detections:
    labels, boxes, rels = entry.get("labels"), entry.get("bbox"), entry.get("rels", [])
    if not isinstance(labels, list) or not isinstance(boxes, list) or not isinstance(rels, list):
        raise InputError(f"{where}: a graph needs the lists 'labels', 'bbox' and 'rels'.")
    links: Relations = []
    for item in rels:
        if (
            not isinstance(item, list)
            or len(item) != 3
            or not all(isinstance(p, str) for p in item)
        ):
            raise InputError(f"{where}: relation {str(item)[:80]} is not three strings.")
        subject, predicate, target = item
        links.append((_row(where, subject, labels), predicate, _row(where, target, labels)))
    return make_detections(where, boxes, labels=labels, relations=links)


def _row(where: str, end: str, labels: list[object]) -> int:
    name, _, digits = end.rpartition(":")
    row = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else -1
    if not 0 <= row < len(labels) or labels[row] != name:
        raise InputError(f"{where}: {end!r} names no box; it must be LABEL:ROW with that label.")
    return row


def _names(path: Path, document: dict[str, object], key: str) -> dict[int, str]:
    """Read a class table written as {name: id}, {"id": name} or a list of names."""
    table = document.get(key)
    where = f"{path}, {key!r}"
    if isinstance(table, list):
        return dict(enumerate(map(str, table)))
    if not isinstance(table, dict):
        raise InputError(f"{where}: expected a table of names and ids.")
    if all(isinstance(value, int) for value in table.values()):
        return {int(str(code)): name for name, code in table.items()}
    codes = integers(where, "the ids", list(table), len(table))
    return dict(zip(codes, map(str, table.values()), strict=True))


def _sgm_entries(path: Path, graphs: object) -> dict[str, object]:
    items = graphs.items() if isinstance(graphs, dict) else enumerate(_as_list(path, graphs))
    entries: dict[str, object] = {}
    for at, item in items:
        if not isinstance(item, dict):
            raise InputError(f"{path}: img_to_sg[{at!r}] must be a JSON object.")
        named = [item[k] for k in ("image_id", "img_id", "file_name", "image_name") if k in item]
        key = str(named[0] if named else at)
        if key in entries:
            raise InputError(f"{path}: image {key!r} stands twice in img_to_sg.")
        entries[key] = item.get("sg", item)
    return entries


def _as_list(path: Path, value: object) -> list[object]:
    if not isinstance(value, list):
        raise InputError(f"{path}: 'img_to_sg' must be a list or an object.")
    return value


def write_scene_graphs(path: Path, items: Iterable[tuple[str, SceneGraph]]) -> int:
    """Write graphs in LGSGM's layout, one image per line; return how many.

    Args:
        path: file to write.
        items: (key, graph) in the order of the file; LGSGM uses file names as keys.
    """
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for key, graph in items:
            ends = [f"{label}:{row}" for row, label in enumerate(graph.labels)]
            entry = {
                "labels": list(graph.labels),
                "bbox": graph.boxes.tolist(),
                "rels": [[ends[s], predicate, ends[o]] for s, predicate, o in graph.relations],
            }
            file.write(f"{',' if count else ''}\n{json.dumps(key)}: {json.dumps(entry)}")
            count += 1
        file.write("\n}\n")
    return count
