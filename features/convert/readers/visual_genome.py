"""Visual Genome's ``scene_graphs.json``: objects with boxes, attributes and relationships.

A list of ``{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names" or "name",
"attributes"}], "relationships": [{"predicate", "subject_id", "object_id"}]}``. Image sizes are in
``image_data.json`` beside it. The parts that Visual Genome also ships alone are read as well:
``objects.json``, ``attributes.json`` (its list of objects is called ``attributes``) and
``relationships.json``, where ``subject`` and ``object`` are whole objects.
"""

from __future__ import annotations

from pathlib import Path

from features.convert.safe.json_files import JsonItems
from features.convert.safe.values import (
    brief,
    integers,
    json_list,
    json_object,
    json_objects,
    text_of,
)
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections

_OBJECTS = ("objects", "attributes")  # lists of objects
_LAYOUTS = "Pass scene_graphs.json, objects.json, attributes.json or relationships.json."


class VisualGenomeFile(Source):
    """Ground truth of Visual Genome; ids are image numbers as text.

    Args:
        path: ``scene_graphs.json``, or one of the files that have a part of it.
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
        self.provides = frozenset({"labels"} | self._columns())
        if image_data is not None:
            self._sizes = JsonItems(image_data, self._entry_id)
            self.provides |= {"size"}
            self.files.append(Path(image_data))

    def _entry_id(self, entry: object, at: int) -> str:
        if not isinstance(entry, dict) or not {"image_id", "id"} & set(entry):
            raise InputError(f"{self.path}: entry {at} has no 'image_id'.")
        return text_of(
            f"{self.path}: entry {at}", "image_id", entry.get("image_id", entry.get("id"))
        )

    def _columns(self) -> set[str]:
        """Return what the first image has beside labels; the fields are the same in all."""
        first = self._items.read(next(iter(self.index))) if self.index else {}
        found: set[str] = set()
        if isinstance(first, dict):
            found |= {"relations"} if "relationships" in first else set()
            listed = "attributes" in first or "objects" in first
            # objects.json has no attributes, scene_graphs.json and attributes.json have
            with_them = "relationships" in first or "attributes" in first
            found |= {"attributes"} if listed and with_them else set()
        return found

    def _size(self, where: str, key: str) -> tuple[int, ...]:
        if self._sizes is None or key not in self._sizes:
            return (0, 0)
        size = json_object(where, self._sizes.read(key))
        return integers(where, "size", [size.get("width"), size.get("height")], 2)

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, image {key!r}"
        entry = json_object(where, self._items.read(key))
        listed = next((name for name in _OBJECTS if name in entry), None)
        if listed is None and "relationships" not in entry:
            raise InputError(f"{where}: neither 'objects' nor 'relationships'. {_LAYOUTS}")
        objects = _Objects(where)
        for item in json_objects(where, entry, listed) if listed else ():
            objects.add(item)
        links = []
        for item in json_objects(where, entry, "relationships"):
            ends = [objects.end(item, side) for side in ("subject", "object")]
            predicate = text_of(where, "a predicate", item.get("predicate")).strip().lower()
            if predicate:  # Visual Genome has relationships without words
                links.append((ends[0], predicate, ends[1]))
        return make_detections(
            where,
            objects.boxes,
            labels=objects.labels,
            size=self._size(where, key),
            attributes=objects.attributes if "attributes" in self.provides else None,
            relations=links if "relations" in self.provides else None,
        )


class _Objects:
    """The objects of one image, listed on their own or inside its relationships."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.boxes: list[list[float]] = []
        self.labels: list[str] = []
        self.attributes: list[list[object]] = []
        self._rows: dict[object, int] = {}

    def add(self, item: dict[str, object]) -> int:
        """Add an object; return its row."""
        where, row = self.where, len(self.boxes)
        x, y, width, height = _numbers(where, item)
        self.boxes.append([x, y, x + width, y + height])
        self.labels.append(_name(where, item))
        given = item.get("attributes")
        words = json_list(where, item, "attributes") if given else []
        self.attributes.append([word for word in words if word != ""])
        self._rows.setdefault(_identity(where, item, "object_id", "id"), row)
        return row

    def end(self, relation: dict[str, object], side: str) -> int:
        """Return the row of a relation's subject or object."""
        whole = relation.get(side)
        if isinstance(whole, dict):
            identity = _identity(self.where, whole, "object_id", "id")
            if identity is not None and identity in self._rows:
                return self._rows[identity]
            return self.add(whole)
        identity = _identity(self.where, relation, f"{side}_id")
        if identity is None or identity not in self._rows:
            raise InputError(
                f"{self.where}: relationship with unknown {side}_id {brief(identity)}."
            )
        return self._rows[identity]


def _identity(where: str, item: dict[str, object], *keys: str) -> int | float | str | None:
    key = next((key for key in keys if key in item), keys[0])
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float, str, type(None))):
        raise InputError(f"{where}: {key!r} is {brief(value)}, not a number or text.")
    return value


def _numbers(where: str, item: dict[str, object]) -> list[float]:
    sides = (("w", "width"), ("h", "height"))
    values = [item.get("x"), item.get("y"), *(item.get(a, item.get(b)) for a, b in sides)]
    plain = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    numbers = [float(v) for v in plain if abs(v) < 1e9]
    if len(numbers) != 4 or numbers[2] < 0 or numbers[3] < 0:
        raise InputError(f"{where}: an object has no usable x, y, w, h: {brief(values)}.")
    return numbers


def _name(where: str, item: dict[str, object]) -> str:
    names = item.get("names") or [item.get("name")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise InputError(f"{where}: an object has no name.")
    return names[0].strip().lower()
