"""COCO's ``instances_*.json`` and ``panoptic_*.json``: gold boxes with their categories.

``{"images": [{"id", "file_name", "width", "height"}], "annotations": [{"image_id", "category_id",
"bbox": [x, y, width, height], "iscrowd", "score"?}], "categories": [{"id", "name"}]}``. Panoptic
files have one annotation an image, with ``segments_info``: a list of such boxes. A list of
detections ``[{"image_id", "category_id", "bbox", "score"}]``, as models are evaluated with, needs
the instances file beside it for the names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from features.convert.safe.json_files import stream_items
from features.convert.safe.values import brief, integers, json_object, json_objects, text_of
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections


class _Box(NamedTuple):
    """A box as the file has it: x, y, width and height, () if it is none."""

    corner: tuple[float, ...]
    category: int
    score: Any


class CocoFile(Source):
    """Boxes of COCO; ids are the file names of the images.

    Crowds (``iscrowd``) are left out: their box is around many objects. The ends ``-merged`` and
    ``-other`` of panoptic names are left out, too.

    Args:
        path: instances, panoptic or a list of detections.
        instances: for a list of detections: the file with images and categories.

    Raises: InputError: not such a file, or an annotation of an image or category that is missing.
    """

    def __init__(self, path: Path | str, *, instances: Path | str | None = None) -> None:
        super().__init__(path, [Path(path), *([Path(instances)] if instances else [])])
        self._names: dict[int, str] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._boxes: dict[str, list[_Box]] = {}
        self._files: dict[str, str] = {}  # image id -> file name
        found: list[tuple[str, _Box]] = []
        self._crowds = 0
        where = str(self.path)
        seen: set[str] = set()
        for key, item in stream_items(self.path):
            seen.add(key)
            if key in ("annotations", ""):
                found += self._annotations(where, item)
            elif instances is None:
                self._listed(where, key, item)
        if instances is not None:
            for key, item in stream_items(instances):
                self._listed(str(instances), key, item)
        elif "" in seen:
            raise InputError(
                f"{where}: a list of detections has no names. Pass the instances file: --extra "
                "instances=FILE."
            )
        if not self._names or not self._files or not seen & {"annotations", ""}:
            raise InputError(f"{where}: no 'images', 'annotations' and 'categories'; not COCO's.")
        for owner, box in found:
            if owner not in self._files:
                raise InputError(
                    f"{where}: an annotation of image_id {owner}, which is not in 'images'."
                )
            if box.category not in self._names:
                raise InputError(f"{where}: category id {box.category} is not in 'categories'.")
            self._boxes[self._files[owner]].append(box)
        self.index = self._boxes
        self.classes = tuple(self._names.values())
        if self._crowds:
            self.notes.append(f"{where}: {self._crowds:,} crowds (iscrowd) were left out.")
        self.provides = frozenset({"labels"})
        self.provides |= {"scores"} if any(box.score is not None for _, box in found) else set()
        self.provides |= {"size"} if any(min(size) > 0 for size in self._sizes.values()) else set()

    def _listed(self, where: str, key: str, value: object) -> None:
        """Note an item of the lists ``categories`` and ``images``."""
        if key not in ("categories", "images"):
            return
        item = json_object(f"{where}, {key!r}", value)
        if key == "categories":
            (number,) = integers(where, "a category id", [item.get("id")], 1)
            if number in self._names:
                raise InputError(f"{where}: category id {number} is listed twice.")
            name = text_of(where, f"the name of category {number}", item.get("name"))
            self._names[number] = name.removesuffix("-merged").removesuffix("-other")
            return
        image = text_of(where, "an image id", item.get("id"))
        name = text_of(where, f"'file_name' of image {image}", item.get("file_name"))
        if image in self._files or name in self._boxes:
            raise InputError(f"{where}: image {image} ({name!r}) is listed twice.")
        self._files[image] = name
        self._boxes[name] = []
        sides = [item.get("width") or 0, item.get("height") or 0]
        self._sizes[name] = integers(f"{where}, image {name!r}", "size", sides, 2)

    def _annotations(self, where: str, value: object) -> list[tuple[str, _Box]]:
        """Return the boxes of one annotation with the id of its image; panoptic ones have many."""
        item = json_object(f"{where}, 'annotations'", value)
        owner = text_of(where, "'image_id' of an annotation", item.get("image_id"))
        if "caption" in item and "bbox" not in item:
            raise InputError(f"{where}: a captions file. Pass it to --captions.")
        segments = json_objects(where, item, "segments_info") if "segments_info" in item else [item]
        found = []
        for one in segments:
            crowd = one.get("iscrowd") or 0
            if crowd not in (0, 1):
                raise InputError(f"{where}: iscrowd is {brief(crowd)}, neither 0 nor 1.")
            if crowd:
                self._crowds += 1
                continue
            (category,) = integers(where, "a category id", [one.get("category_id")], 1)
            given = one.get("bbox")
            box = given if isinstance(given, list) else []
            numbers = [v for v in box if type(v) in (int, float)]
            if len(numbers) != 4 or len(box) != 4:
                numbers = []  # named when the image is read, so that it can be skipped
            found.append((owner, _Box(tuple(numbers), category, one.get("score"))))
        return found

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, image {key!r}"
        boxes, labels, scores = [], [], []
        for box in self._boxes[key]:
            if not box.corner or min(box.corner[2:]) < 0 or max(map(abs, box.corner)) > 1e9:
                raise InputError(
                    f"{where}: 'bbox' must be [x, y, width, height], not {brief(box.corner)}."
                )
            x, y, width, height = box.corner
            boxes.append([x, y, x + width, y + height])
            labels.append(self._names[box.category])
            scores.append(1.0 if box.score is None else box.score)
        return make_detections(where, boxes, labels=labels, scores=scores, size=self._sizes[key])
