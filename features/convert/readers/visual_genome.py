"""Visual Genome's ``scene_graphs.json``: objects with boxes, attributes and relationships.

A list of ``{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names" or "name",
"attributes"}], "relationships": [{"predicate", "subject_id", "object_id"}]}``. Image sizes are in
``image_data.json`` beside it.
"""

from __future__ import annotations

from pathlib import Path

from features.convert.safe.json_files import JsonItems
from features.convert.safe.values import brief, integers, json_list, json_object, json_objects
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections


class VisualGenomeFile(Source):
    """Ground truth of Visual Genome; ids are image numbers as text.

    Args:
        path: ``scene_graphs.json``.
        image_data: ``image_data.json`` for the sizes; by default the one in the same folder.
    """

    def __init__(self, path: Path | str, *, image_data: Path | str | None = None) -> None:
        super().__init__(path, [Path(path)])
        self._items = JsonItems(self.path, self._entry_id)
        self.index = self._items.spans
        if twice := self._items.repeated:
            self.notes.append(f"{self.path}: {twice} entries repeat an image; the first counts.")
        beside = self.path.with_name("image_data.json")
        if image_data is None and beside.is_file() and beside != self.path:
            image_data = beside
        self._sizes: JsonItems | None = None
        self.provides = frozenset({"labels", "attributes", "relations"})
        if image_data is not None:
            self._sizes = JsonItems(image_data, self._entry_id)
            self.provides |= {"size"}
            self.files.append(Path(image_data))

    def _entry_id(self, entry: object, at: int) -> str:
        if not isinstance(entry, dict) or not {"image_id", "id"} & set(entry):
            raise InputError(f"{self.path}: entry {at} has no 'image_id'.")
        return str(entry.get("image_id", entry.get("id")))

    def _size(self, where: str, key: str) -> tuple[int, ...]:
        if self._sizes is None or key not in self._sizes:
            return (0, 0)
        size = json_object(where, self._sizes.read(key))
        return integers(where, "size", [size.get("width"), size.get("height")], 2)

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, image {key!r}"
        entry = json_object(where, self._items.read(key))
        boxes, labels, traits = [], [], []
        row_of: dict[object, int] = {}
        for row, item in enumerate(json_objects(where, entry, "objects")):
            row_of[_identity(where, item, "object_id")] = row
            x, y, width, height = _numbers(where, item)
            boxes.append([x, y, x + width, y + height])
            labels.append(_name(where, item))
            attributes = json_list(where, item, "attributes") if item.get("attributes") else []
            traits.append([str(value) for value in attributes])
        links = []
        for item in json_objects(where, entry, "relationships"):
            ends = []
            for side in ("subject_id", "object_id"):
                end = _identity(where, item, side)
                if end is None or end not in row_of:
                    raise InputError(f"{where}: relationship with unknown {side} {brief(end)}.")
                ends.append(row_of[end])
            links.append((ends[0], str(item.get("predicate", "")).strip().lower(), ends[1]))
        return make_detections(
            where,
            boxes,
            labels=labels,
            size=self._size(where, key),
            attributes=traits,
            relations=links,
        )


def _identity(where: str, item: dict[str, object], key: str) -> int | float | str | None:
    value = item.get(key)
    if value is not None and not isinstance(value, (int, float, str)):
        raise InputError(f"{where}: {key!r} is {brief(value)}, not a number or text.")
    return value


def _numbers(where: str, item: dict[str, object]) -> list[float]:
    values = [item.get(key) for key in ("x", "y", "w", "h")]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and abs(v) < 1e9]
    if len(numbers) != 4 or numbers[2] < 0 or numbers[3] < 0:
        raise InputError(f"{where}: an object has no usable x, y, w, h: {brief(values)}.")
    return numbers


def _name(where: str, item: dict[str, object]) -> str:
    names = item.get("names") or [item.get("name")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise InputError(f"{where}: an object has no name.")
    return names[0].strip().lower()
