"""Bottom-up-attention TSV: boxes and features of Faster R-CNN, one image per line.

Anderson's files have six columns (image_id image_w image_h num_boxes boxes features), LXMERT's
ten (img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features);
a header may name them in another order. Arrays are base64. Several processes write these files,
so lines come in any order, an image may be listed twice, and the last line of a killed process is
torn. The first whole line of an image counts. The first pass notes the byte offset of every line
and reads only the ids; ``read`` decodes one line.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features.convert.safe.inputs import BOM, need_file, opened, read_names, visible
from features.convert.safe.values import (
    box_count,
    decode_base64,
    decode_floats,
    integers,
    pick_names,
)
from features.convert.source import Source, make_detections
from features.errors import FeatureOverflow, InputError
from features.records import Detections

_ARRAYS = ("num_boxes", "boxes", "features")
PLAIN: tuple[str, ...] = ("image_id", "image_w", "image_h", *_ARRAYS)
_CLASSES = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
LXMERT: tuple[str, ...] = ("img_id", "img_h", "img_w", *_CLASSES, *_ARRAYS)
_ID_BYTES = 4096
_FAR = 100  # times the image, where no box is
_QUOTED_ID = re.compile(r"""b?(["'])(.*)\1""")
_SHOWN = 80  # characters of an id in messages


class BottomUpFile(Source):
    """One TSV, or several parts of one (``out.tsv.0``, ``out.tsv.1`` ...).

    Args:
        path: the file; if it does not exist, its parts ``path.*``.
        parts: more files of the same layout.
        objects: file of class names (LXMERT's layout has class numbers, from 0).
        attributes: file of attribute names, likewise.

    Raises: MissingInput: no such file. InputError: neither layout, or no complete line.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        parts: Sequence[Path | str] = (),
        objects: Path | str | None = None,
        attributes: Path | str | None = None,
    ) -> None:
        super().__init__(path)
        found = visible(self.path.parent, f"{glob.escape(self.path.name)}.*")
        files = [self.path] if self.path.is_file() or not found else found
        self._files = [need_file(file) for file in (*files, *parts)]
        names = [Path(extra) for extra in (objects, attributes) if extra is not None]
        self.files = [*self._files, *names]
        self.classes = () if objects is None else read_names(objects)
        self.traits: tuple[str, ...] = () if attributes is None else read_names(attributes)
        self.index: dict[str, tuple[int, int, int, int]] = {}  # id -> file, offset, bytes, line
        self._repeats: dict[str, list[tuple[int, int, int, int]]] = {}  # id -> its other lines
        self._broken: dict[str, str] = {}  # id -> what is wrong with its line
        self._columns = PLAIN
        self._layouts = {len(columns): columns for columns in (PLAIN, LXMERT)}
        for number, file in enumerate(self._files):
            self._index(number, file)
        if not self.index:
            broken = next(iter(self._broken.values()), f"{self.path}:")
            raise InputError(f"{broken} no complete line in this file. Is it a feature TSV?")
        self._broken = {k: v for k, v in self._broken.items() if k not in self.index}
        self.provides = frozenset({"features", "size"})
        if set(self._columns) == set(LXMERT):
            self.provides |= {"scores"} | ({"labels"} if self.classes else set())
            self.provides |= {"attributes"} if self.traits else set()

    def _index(self, number: int, path: Path) -> None:
        twice = 0
        with opened(path) as file:
            offset = 0
            for at, line in enumerate(file, 1):
                fields = line.count(b"\t") + 1
                columns = self._layouts.get(fields)
                whole = line.endswith(b"\n")
                name = line[:_ID_BYTES].removeprefix(BOM if at == 1 else b"").split(b"\t", 1)[0]
                key = _plain_id(name.decode("utf-8", "replace"))
                start, offset = offset, offset + len(line)
                where = f"{path}, line {at}, image {key[:_SHOWN]!r}"
                if not line.strip(b"\0 \t\r\n"):
                    continue  # blank; zeros are left of a crash
                if key.lower() in ("image_id", "img_id"):
                    self._read_header(line, where)
                    continue
                if self.index and columns != self._columns:
                    columns = None
                if not whole and not (columns and self._is_whole(line, columns, where)):
                    self.notes.append(f"{where}: the last line is torn and was left out.")
                    continue
                if columns is None:
                    broken = f"{where}: {fields} columns, expected 6 (or LXMERT's 10)."
                    if fields > len(self._columns):
                        broken += " A torn line may hide the image of the line after it."
                    self.notes.append(broken)
                    self._broken.setdefault(key[:_SHOWN], broken)
                    continue
                self._columns = columns
                place = (number, start, len(line), at)
                if self.index.setdefault(key, place) is not place:
                    twice += 1
                    self._repeats.setdefault(key, []).append(place)
        if twice:
            self.notes.append(f"{path}: {twice} lines repeat an image; the first whole one counts.")

    def _read_header(self, line: bytes, where: str) -> None:
        """Take the order of the columns from a header.

        Raises: InputError: columns of neither layout.
        """
        text = line.removeprefix(BOM).decode("utf-8", "replace")
        names = tuple(name.strip().lower() for name in text.split("\t"))
        known = self._layouts.get(len(names), ())
        if set(names) != set(known) or (self.index and names != self._columns):
            raise InputError(
                f"{where}: the header is {', '.join(names)[:200]!r}; expected {', '.join(PLAIN)} "
                f"or {', '.join(LXMERT)}."
            )
        self._layouts[len(names)] = names

    def _is_whole(self, line: bytes, columns: tuple[str, ...], where: str) -> bool:
        try:
            self._decode(line, columns, where)
        except InputError:
            return False
        return True

    def ids(self) -> list[str]:
        """Return the image ids in the order of the lines."""
        return [*self.index, *self._broken]

    def key(self, image_id: str) -> str:
        """Return the id of an image in the file; an image whose line is broken is an InputError."""
        if image_id in self._broken:
            raise InputError(f"{self._broken[image_id]} Delete the line.")
        return super().key(image_id)

    def _read(self, key: str) -> Detections:
        errors: list[InputError | FeatureOverflow] = []
        for place in (self.index[key], *self._repeats.get(key, ())):
            try:
                return self._read_line(key, *place)
            except (InputError, FeatureOverflow) as error:
                errors.append(error)
        raise errors[0]

    def _read_line(self, key: str, number: int, offset: int, length: int, at: int) -> Detections:
        path = self._files[number]
        with opened(path, buffering=0) as file:
            file.seek(offset)
            line = file.read(length)
        return self._decode(line, self._columns, f"{path}, line {at}, image {key!r}")

    def _decode(self, line: bytes, columns: tuple[str, ...], where: str) -> Detections:
        row = dict(zip(columns, line.split(b"\t"), strict=True))
        lxmert = len(columns) == len(LXMERT)
        names = ("img_w", "img_h") if lxmert else ("image_w", "image_h")
        size = integers(where, "width and height", [row[n].decode("latin1") for n in names], 2)
        count = box_count(where, row["num_boxes"].decode("latin1"))
        boxes = decode_floats(row["boxes"], (count, 4), f"{where}, column 'boxes'")
        if boxes.size and min(size) > 0 and boxes.max() > _FAR * max(size):
            far = int(np.argmax(boxes.max(1)))
            raise InputError(
                f"{where}: box {far} is {boxes[far].tolist()}, the image {size[0]} x {size[1]}. "
                "num_boxes may be wrong, or the columns are in another order."
            )
        # who writes boxes as float16 writes features so; their patterns may say nothing
        half = 2 if len(decode_base64(row["boxes"], where)) == 8 * count else 0
        features = decode_floats(
            row["features"], (count, -1), f"{where}, column 'features'", size=half
        )
        labels = scores = traits = None
        if lxmert:
            scores = decode_floats(row["objects_conf"], (count, 1), f"{where}, 'objects_conf'")
            objects = _decode_ids(row["objects_id"], count, f"{where}, 'objects_id'")
            attrs = _decode_ids(row["attrs_id"], count, f"{where}, 'attrs_id'")
            if self.classes:
                labels = pick_names(where, "object class", self.classes, objects)
            if self.traits:
                traits = [[name] for name in pick_names(where, "attribute", self.traits, attrs)]
        return make_detections(
            where,
            boxes,
            labels=labels,
            scores=None if scores is None else scores[:, 0],
            size=size,
            features=features,
            attributes=traits,
        )


def _plain_id(name: str) -> str:
    """Return an id without what programs leave around it.

    >>> [_plain_id(name) for name in (" 1 ", "b'1.jpg'", '"1"')]
    ['1', '1.jpg', '1']
    """
    name = name.strip("\0 \t\r\n")
    quoted = _QUOTED_ID.fullmatch(name)
    return name if quoted is None else quoted[2]


def _decode_ids(field: bytes, count: int, where: str) -> list[int]:
    """Decode base64 of int64 ids (LXMERT's extraction) or int32 ids, known by their length."""
    raw = decode_base64(field, where)
    if len(raw) not in (4 * count, 8 * count):
        raise InputError(f"{where}: {len(raw)} bytes for {count} ids of 4 or 8 bytes.")
    codes = np.frombuffer(raw, dtype="<i8" if len(raw) == 8 * count else "<i4")
    return [int(code) for code in codes]
