"""Scene graphs as JSON in the layouts of LGSGM and SGM.

LGSGM: ``{file name: {"labels": [n], "bbox": [[x1, y1, x2, y2]], "rels": [["man:1", "wearing",
"hat:0"]]}}``; the number after a label is the row of its box. ``features.convert.readers.sgm``
describes SGM's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.convert.readers.sgm import SgmFile
from features.convert.safe.json_files import JsonItems
from features.convert.safe.values import brief, json_list, json_object
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections


class SceneGraphFile(Source):
    """One scene graph file of LGSGM or SGM; the keys tell which.

    Args:
        path: the JSON file.

    Raises: InputError: the file has neither layout.
    """

    provides = frozenset({"labels", "relations"})

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, [Path(path)])
        self._items = JsonItems(self.path)
        self.index: Mapping[str, Any] = self._items.spans
        self._sgm: SgmFile | None = None
        if "img_to_sg" in self._items:
            self._sgm = SgmFile(self.path)
            self.index = self._sgm.index
            self.classes, self.predicates = self._sgm.classes, self._sgm.predicates
            self.notes = self._sgm.notes

    def _read(self, key: str) -> Detections:
        if self._sgm is not None:
            return self._sgm.read(key)
        where = f"{self.path}, image {key!r}"
        entry = json_object(where, self._items.read(key))
        if not {"labels", "bbox"} <= entry.keys():
            raise InputError(f"{where}: a graph needs the lists 'labels', 'bbox' and 'rels'.")
        labels = json_list(where, entry, "labels")
        links: list[tuple[int, str, int]] = []
        for item in json_list(where, entry, "rels"):
            if not (isinstance(item, list) and [type(part) for part in item] == [str] * 3):
                raise InputError(f"{where}: relation {brief(item)} is not three strings.")
            subject, predicate, target = item
            links.append((_row(where, subject, labels), predicate, _row(where, target, labels)))
        boxes = json_list(where, entry, "bbox")
        return make_detections(where, boxes, labels=labels, relations=links)


def _row(where: str, end: str, labels: list[object]) -> int:
    name, _, digits = end.rpartition(":")
    row = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else -1
    if not 0 <= row < len(labels) or labels[row] != name:
        raise InputError(f"{where}: {end!r} does not name a box; it must be LABEL:ROW of a box.")
    return row
