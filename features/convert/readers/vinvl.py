"""VinVL's and Oscar's TSV of ``key<TAB>JSON`` with a ``.lineidx`` of byte offsets.

Two layouts, told apart by the JSON: scene_graph_benchmark's predictions, ``{"objects": [{"rect",
"class", "conf", "feature", "attributes", "attr_scores"}], "relations": [{"subj_id", "obj_id",
"class", "conf"}] | null}``; and Oscar's features, ``{"num_boxes", "features"}`` (n, 2054: 2048 and
six numbers of the box, x1 y1 x2 y2 w h as fractions of the image) with ``X.label.tsv``
``[{"rect", "class", "conf"}]`` and ``X.hw.tsv`` ``[{"height", "width"}]`` beside it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from features.convert.safe.inputs import BOM, need_file, opened, read_bytes
from features.convert.safe.json_files import parse_json
from features.convert.safe.values import (
    box_count,
    brief,
    decode_floats,
    integers,
    json_object,
    json_objects,
    text_of,
)
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections

_BOX_NUMBERS = 6
_SOME_OBJECTS = re.compile(rb'"objects"\s*:\s*\[\s*[^]\s]')
_SOME_RELATIONS = re.compile(rb'"relations"\s*:\s*[^n\s]')  # anything but null
_NO_ATTRIBUTE = "__no_attribute__"  # class 0 of scene_graph_benchmark's attributes


class _Lines:
    """A TSV of two columns addressed by the text of the first.

    If an offset of the ``.lineidx`` beside it is not the start of a line, the file is scanned
    instead.
    """

    def __init__(self, path: Path, notes: list[str]) -> None:
        self.path = need_file(path)
        self.offsets: dict[str, int] = {}
        index = path.with_suffix(".lineidx")
        starts = self._starts(index) if index.is_file() else None
        if starts is None and index.is_file():
            notes.append(f"{index}: does not fit {path.name}; the file was scanned instead.")
        twice = 0
        self._repeats: dict[str, list[int]] = {}
        with opened(path) as file:
            for start in self._scan() if starts is None else starts:
                file.seek(start)
                name = file.readline(4096).removeprefix(BOM).partition(b"\t")[0]
                key = name.decode("utf-8", "replace").strip()
                if key and self.offsets.setdefault(key, start) != start:
                    twice += 1
                    self._repeats.setdefault(key, []).append(start)
        if twice:
            notes.append(f"{path}: {twice} lines repeat an image; the first whole one counts.")

    def _starts(self, index: Path) -> list[int] | None:
        """Return the offsets of the index, or None if one is not the start of a line."""
        try:
            starts = [int(line) for line in read_bytes(index).decode("ascii").split()]
        except (ValueError, UnicodeDecodeError):
            return None
        size = self.path.stat().st_size
        rising = all(a < b for a, b in itertools.pairwise(starts))
        if not starts or starts[0] != 0 or not rising or starts[-1] >= size:
            return None
        with opened(self.path) as file:
            for start in starts[1:]:
                file.seek(start - 1)
                if file.read(1) != b"\n":
                    return None
            file.seek(starts[-1])
            file.readline()
            return None if file.read(1) else starts

    def _scan(self) -> list[int]:
        with opened(self.path) as file:
            return list(itertools.accumulate(map(len, file), initial=0))[:-1]

    def read(self, key: str) -> Any:
        errors: list[InputError] = []
        with opened(self.path) as file:
            for start in (self.offsets[key], *self._repeats.get(key, ())):
                file.seek(start)
                try:
                    return self._parse(key, file.readline())
                except InputError as error:
                    errors.append(error)
        raise errors[0]

    def entries(self, pattern: re.Pattern[bytes] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of matching lines; torn lines are skipped."""
        with opened(self.path) as file:
            for key, start in self.offsets.items():
                file.seek(start)
                line = file.readline()
                if pattern is not None and not pattern.search(line):
                    continue
                with contextlib.suppress(InputError):
                    if isinstance(entry := self._parse(key, line), dict):
                        yield entry

    def _parse(self, key: str, line: bytes) -> Any:
        where = f"{self.path}, image {key!r}"
        return parse_json(line.partition(b"\t")[2], where, "The line may be torn.")


class VinvlFile(Source):
    """Predictions or features of VinVL.

    Args:
        path: the ``.tsv``.
        labels: Oscar's label file; by default ``X.label.tsv`` beside ``X.feature.tsv``.
        sizes: Oscar's ``X.hw.tsv``, likewise.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        labels: Path | str | None = None,
        sizes: Path | str | None = None,
    ) -> None:
        super().__init__(path)
        self._lines = _Lines(self.path, self.notes)
        self.index = self._lines.offsets
        if not self.index:
            raise InputError(f"{self.path}: no line in this file.")
        self._labels = self._beside("label", labels)
        self._sizes = self._beside("hw", sizes)
        parts = (self._lines, self._labels, self._sizes)
        self.files = [part.path for part in parts if part is not None]
        first = next(self._lines.entries(), None)
        if first is None:
            self._lines.read(next(iter(self.index)))  # raises what is wrong with it
            raise InputError(f"{self.path}: no line has a JSON object. Is it VinVL's?")
        self._oscar = "num_boxes" in first
        labelled = {"labels", "scores"}
        if self._oscar:
            found = {"features"} | (labelled if self._labels else set())
        else:
            found = labelled | self._columns(first)
        self.provides = frozenset(found | ({"size"} if self._sizes else set()))

    def _columns(self, first: dict[str, Any]) -> set[str]:
        """Return the columns of a predictions file beside labels and scores.

        Features and attributes are looked for in the first line with objects, relations in the
        first line where they are not null. Lines without are searched, not parsed.
        """
        found = set()
        for entry in self._lines.entries(_SOME_OBJECTS):
            objects = entry.get("objects")
            if isinstance(objects, list) and objects and isinstance(objects[0], dict):
                found |= {"features"} if "feature" in objects[0] else set()
                found |= {"attributes"} if "attributes" in objects[0] else set()
                break
        if "relations" in first:  # the fields are the same in all lines
            known = self._lines.entries(_SOME_RELATIONS)
            if any(entry.get("relations") is not None for entry in known):
                found.add("relations")
        return found

    def _beside(self, kind: str, given: Path | str | None) -> _Lines | None:
        if given is not None:
            return _Lines(Path(given), self.notes)
        stem = self.path.name.removesuffix(".tsv").removesuffix(".feature")
        beside = self.path.with_name(f"{stem}.{kind}.tsv")
        return _Lines(beside, self.notes) if beside.is_file() else None

    def _read(self, key: str) -> Detections:
        where = f"{self.path}, image {key!r}"
        entry = json_object(where, self._lines.read(key))
        size = self._size(where, key)
        if self._oscar:
            return self._read_features(where, key, entry, size)
        return _read_objects(where, entry, size)

    def _size(self, where: str, key: str) -> tuple[int, ...]:
        if self._sizes is None or key not in self._sizes.offsets:
            return (0, 0)
        found = self._sizes.read(key)
        size = json_object(where, found[0] if isinstance(found, list) and found else found)
        return integers(where, "image size", [size.get("width"), size.get("height")], 2)

    def _read_features(
        self, where: str, key: str, entry: dict[str, Any], size: tuple[int, ...]
    ) -> Detections:
        count = box_count(where, entry.get("num_boxes"))
        if not isinstance(entry.get("features"), str):
            raise InputError(f"{where}: 'features' must be base64 text.")
        wide = decode_floats(entry["features"], (count, -1), f"{where}, 'features'")
        if count and wide.shape[1] <= _BOX_NUMBERS:
            raise InputError(f"{where}: features of width {wide.shape[1]} have no box in them.")
        # Without a size the fractions cannot become pixels: zeros, as for other unknown boxes.
        boxes = wide[:, -_BOX_NUMBERS:-2] * np.asarray([*size, *size], np.float32)
        labels: list[Any] | None = None
        scores: list[Any] | None = None
        if self._labels is not None and key in self._labels.offsets:
            found = json_objects(where, {"labels": self._labels.read(key)}, "labels")
            labels = [item.get("class", "object") for item in found]
            scores = [item.get("conf", 1.0) for item in found]
            rects = [item.get("rect") for item in found]
            if len(found) == count and all(isinstance(rect, list) for rect in rects):
                boxes = np.asarray([_rect(where, rect) for rect in rects], np.float32)
        features = wide[:, :-_BOX_NUMBERS]
        return make_detections(
            where, boxes, labels=labels, scores=scores, size=size, features=features
        )


def _read_objects(where: str, entry: dict[str, Any], size: tuple[int, ...]) -> Detections:
    if "objects" not in entry:
        raise InputError(f"{where}: the list 'objects' is missing.")
    objects = json_objects(where, entry, "objects")
    boxes = [_rect(where, item.get("rect")) for item in objects]
    features = None
    if objects and all(isinstance(item.get("feature"), str) for item in objects):
        rows = [decode_floats(o["feature"], (1, -1), f"{where}, 'feature'")[0] for o in objects]
        if len({len(row) for row in rows}) > 1:
            raise InputError(f"{where}: features of different width.")
        features = np.stack(rows)
    traits = None
    if objects and all(isinstance(item.get("attributes"), list) for item in objects):
        traits = [_attributes(where, item) for item in objects]
    links, weights = None, None
    if isinstance(entry.get("relations"), list):
        relations = json_objects(where, entry, "relations")
        links, weights = [], [item.get("conf", 1.0) for item in relations]
        for item in relations:
            ends = [item.get("subj_id"), item.get("obj_id")]
            subject, target = integers(where, "a relation", ends, 2)
            links.append(
                (subject, text_of(where, "the class of a relation", item.get("class")), target)
            )
    return make_detections(
        where,
        boxes,
        labels=[item.get("class", "object") for item in objects],
        scores=[item.get("conf", 1.0) for item in objects],
        size=size,
        features=features,
        attributes=traits,
        relations=links,
        relation_scores=weights,
    )


def _attributes(where: str, item: dict[str, Any]) -> list[str]:
    """Return the attributes of an object without the padding, which has score 0."""
    names = [text_of(where, "an attribute", name) for name in item["attributes"]]
    scores = item.get("attr_scores")
    if scores is None:
        scores = [1.0] * len(names)
    if not isinstance(scores, list) or len(scores) != len(names):
        raise InputError(f"{where}: {brief(scores)} are not the scores of {len(names)} attributes.")
    if not all(type(score) in (int, float) for score in scores):
        raise InputError(f"{where}: attr_scores hold {brief(scores)}.")
    pairs = zip(names, scores, strict=True)
    return [name for name, score in pairs if score > 0 and name != _NO_ATTRIBUTE]


def _rect(where: str, rect: object) -> list[float]:
    if not isinstance(rect, list) or len(rect) != 4:
        raise InputError(f"{where}: a rect must be [x1, y1, x2, y2], not {brief(rect)}.")
    if not all(type(value) in (int, float) and abs(value) < 1e9 for value in rect):
        raise InputError(f"{where}: a rect holds {brief(rect)}.")
    return rect
