"""PSG's ``psg.json``: panoptic segments with their boxes, and relations (Yang et al., 2022).

``{"data": [{"image_id", "file_name", "width", "height", "annotations": [{"bbox", "category_id"}],
"relations": [[subject, object, predicate]]}], "thing_classes", "stuff_classes",
"predicate_classes"}``. Categories count the things first, then the stuff. Boxes are xyxy
(``bbox_mode`` 0) or xywh (1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.convert.safe.json_files import read_json
from features.convert.safe.values import (
    brief,
    integers,
    json_list,
    json_object,
    json_objects,
    pick_names,
    text_of,
)
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections


class PsgFile(Source):
    """Objects and relations of PSG; ids are the file names of the images.

    Args:
        path: ``psg.json``.

    Raises: InputError: not such a file, or an image that is listed twice.
    """

    provides = frozenset({"labels", "relations", "size"})

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, [Path(path)])
        document = json_object(str(self.path), read_json(self.path))
        if not {"data", "thing_classes", "predicate_classes"} <= document.keys():
            raise InputError(
                f"{self.path}: no 'data', 'thing_classes' and 'predicate_classes'; not PSG's."
            )
        where = str(self.path)
        self.classes, self.predicates = (
            tuple(
                text_of(where, f"a name of {key!r}", name)
                .removesuffix("-merged")
                .removesuffix("-other")
                for key in keys
                for name in json_list(where, document, key)
            )
            for keys in (("thing_classes", "stuff_classes"), ("predicate_classes",))
        )
        found: dict[str, dict[str, Any]] = {}
        for item in json_objects(where, document, "data"):
            key = text_of(where, "'file_name' of an image", item.get("file_name"))
            if key in found:
                raise InputError(f"{where}: image {key!r} is listed twice.")
            found[key] = item
        self.index = found

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, image {key!r}"
        entry = self.index[key]
        boxes: list[list[float]] = []
        codes: list[int] = []
        listed = "annotations" if "annotations" in entry else "segments_info"
        for item in json_objects(where, entry, listed):
            box = item.get("bbox")
            numbers = [v for v in box if type(v) in (int, float)] if isinstance(box, list) else []
            if len(numbers) != 4:
                raise InputError(f"{where}: a box is {brief(box)}, not four numbers.")
            mode = item.get("bbox_mode")
            if mode is not None and (type(mode) is not int or mode not in (0, 1)):
                raise InputError(f"{where}: bbox_mode {brief(mode)}; 0 (xyxy) and 1 (xywh) exist.")
            if mode == 1:
                numbers = [*numbers[:2], numbers[0] + numbers[2], numbers[1] + numbers[3]]
            boxes.append(numbers)
            codes += integers(where, "a category id", [item.get("category_id")], 1)
        triplets = [
            integers(where, "a relation", r, 3) for r in json_list(where, entry, "relations")
        ]
        names = pick_names(where, "predicate", self.predicates, [p for _, _, p in triplets])
        return make_detections(
            where,
            boxes,
            labels=pick_names(where, "category", self.classes, codes),
            size=[entry.get("width"), entry.get("height")],
            relations=[(s, name, o) for (s, o, _), name in zip(triplets, names, strict=True)],
        )
