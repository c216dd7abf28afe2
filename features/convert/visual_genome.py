"""Visual Genome's ``scene_graphs.json``: objects with boxes, attributes and relationships.

A list of ``{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names" or "name",
"attributes"}], "relationships": [{"predicate", "subject_id", "object_id"}]}``. Sizes stand in
``image_data.json`` beside it.
"""

from __future__ import annotations

from pathlib import Path

from features.convert.source import integers, make_detections, match_id, read_json
from features.errors import InputError
from features.records import Detections

__all__ = ["VisualGenomeFile"]


class VisualGenomeFile:
    """Ground truth of Visual Genome; ids are image numbers as text.

    Args:
        path: ``scene_graphs.json``.
        image_data: ``image_data.json`` for the sizes; taken from the same folder when it is there.
    """

    def __init__(self, path: Path | str, *, image_data: Path | str | None = None) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.classes: tuple[str, ...] = ()
        self.predicates: tuple[str, ...] = ()
        self._entries, twice = _by_image(self.path)
        if twice:
            self.notes.append(f"{self.path}: {twice} entries repeat an image; the first counts.")
        beside = self.path.with_name("image_data.json")
        if image_data is None and beside.is_file() and beside != self.path:
            image_data = beside
        self._sizes: dict[str, dict[str, object]] = {}
        self.brings = frozenset({"labels", "attributes", "relations"})
        self.files = [self.path]
        if image_data is not None:
            self._sizes = _by_image(Path(image_data))[0]
            self.brings |= {"size"}
            self.files.append(Path(image_data))

    def ids(self) -> list[str]:
        """Return the image ids in file order."""
        return list(self._entries)

    def read(self, image_id: str) -> Detections:
        """Return one image's objects; scores are ones."""
        key = match_id(self._entries, image_id, self.path)
        where = f"{self.path}, image {key!r}"
        entry = self._entries[key]
        boxes, labels, traits = [], [], []
        row_of: dict[object, int] = {}
        for row, item in enumerate(_dicts(where, entry, "objects")):
            row_of[item.get("object_id")] = row
            x, y, width, height = _numbers(where, item)
            boxes.append([x, y, x + width, y + height])
            labels.append(_name(where, item))
            attributes = item.get("attributes") or []
            if not isinstance(attributes, list):
                raise InputError(f"{where}: the attributes of an object must be a list.")
            traits.append([str(value) for value in attributes])
        links = []
        for item in _dicts(where, entry, "relationships"):
            ends = []
            for side in ("subject_id", "object_id"):
                if item.get(side) not in row_of:
                    raise InputError(f"{where}: relationship with unknown {side} {item.get(side)}.")
                ends.append(row_of[item[side]])
            links.append((ends[0], str(item.get("predicate", "")).strip().lower(), ends[1]))
        size = self._sizes.get(key)
        return make_detections(
            where,
            boxes,
            labels=labels,
            size=integers(where, "size", [size.get("width"), size.get("height")], 2)
            if size
            else (0, 0),
            attributes=traits,
            relations=links,
        )


def _by_image(path: Path) -> tuple[dict[str, dict[str, object]], int]:
    document = read_json(path)
    if not isinstance(document, list):
        raise InputError(f"{path}: expected a list with one entry per image.")
    found: dict[str, dict[str, object]] = {}
    twice = 0
    for at, entry in enumerate(document):
        if not isinstance(entry, dict) or not {"image_id", "id"} & set(entry):
            raise InputError(f"{path}: entry {at} has no 'image_id'.")
        key = str(entry.get("image_id", entry.get("id")))
        twice += key in found
        found.setdefault(key, entry)
    return found, twice


def _dicts(where: str, entry: dict[str, object], key: str) -> list[dict[str, object]]:
    items = entry.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{where}: {key!r} must be a list of JSON objects.")
    return items


def _numbers(where: str, item: dict[str, object]) -> list[float]:
    values = [item.get(key) for key in ("x", "y", "w", "h")]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and abs(v) < 1e9]
    if len(numbers) != 4 or numbers[2] < 0 or numbers[3] < 0:
        raise InputError(f"{where}: an object has no usable x, y, w, h: {values}.")
    return numbers


def _name(where: str, item: dict[str, object]) -> str:
    names = item.get("names") or [item.get("name")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise InputError(f"{where}: an object has no name.")
    return names[0].strip().lower()
