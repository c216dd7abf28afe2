"""Scene graphs as JSON: the files of LGSGM, and those of SGM through the same door.

LGSGM: ``{file name: {"labels": [n], "bbox": [[x1, y1, x2, y2]], "rels": [["man:1", "wearing",
"hat:0"]]}}``; the number behind a label is the row of the box. SGM: ``features.convert.readers.sgm``.

API::

    graphs = SceneGraphFile(path)      # tells the two layouts apart by their keys
    graphs.ids()                       # image ids, in file order
    graphs.read(image_id)              # Detections; finds "1.jpg" for "1" and the other way round
    graphs.brings, graphs.classes, graphs.predicates, graphs.notes
    write_scene_graphs(path, items)    # LGSGM layout, items = (file name, SceneGraph)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from features.convert.readers.sgm import SgmFile
from features.convert.safe.json_items import JsonItems
from features.convert.source import make_detections, match_id
from features.errors import InputError
from features.records import Detections, SceneGraph

__all__ = ["SceneGraphFile", "write_scene_graphs"]


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
        self._items = JsonItems(self.path)
        self.classes: tuple[str, ...] = ()
        self.predicates: tuple[str, ...] = ()
        self.brings = frozenset({"labels", "relations"})
        self._sgm: SgmFile | None = None
        if "img_to_sg" in self._items:
            self._sgm = SgmFile(self.path)
            self.classes, self.predicates = self._sgm.classes, self._sgm.predicates
            self.notes = self._sgm.notes

    def ids(self) -> list[str]:
        """Return the image ids in file order."""
        return self._items.keys() if self._sgm is None else self._sgm.ids()

    def read(self, image_id: str) -> Detections:
        """Return one image's graph; sizes and scores are unknown: (0, 0) and ones."""
        if self._sgm is not None:
            return self._sgm.read(image_id)
        key = match_id(self._items.spans, image_id, self.path)
        where = f"{self.path}, image {key!r}"
        entry = self._items.read(key)
        if not isinstance(entry, dict):
            raise InputError(f"{where}: a graph must be a JSON object.")
        return _read_lgsgm(where, entry)


def _read_lgsgm(where: str, entry: dict[str, object]) -> Detections:
    labels, boxes, rels = entry.get("labels"), entry.get("bbox"), entry.get("rels", [])
    if not isinstance(labels, list) or not isinstance(boxes, list) or not isinstance(rels, list):
        raise InputError(f"{where}: a graph needs the lists 'labels', 'bbox' and 'rels'.")
    links: list[tuple[int, str, int]] = []
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
