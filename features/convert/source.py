"""What every importer gives and the checks that all of them share.

A reader opens one foreign file or folder and offers ``ids()`` and ``read(image_id)``. Nothing that
such a file claims is believed: paths stay inside their folder, counts are compared with the bytes
that are there, numbers are finite, rows point at boxes that exist.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import child, need_file, need_folder, read_bytes, read_text
from features.convert.safe.values import brief, check_text, integers, real_rows
from features.errors import FeatureOverflow, InputError, UnknownName
from features.records import Detections

__all__ = [
    "Source",
    "brief",
    "check_text",
    "child",
    "decode_base64",
    "decode_floats",
    "id_forms",
    "integers",
    "make_detections",
    "match_id",
    "need_file",
    "need_folder",
    "parse_json",
    "read_json",
    "read_names",
    "real_rows",
]

Array = npt.NDArray[np.float32]
_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")  # the file names of COCO 2014 and 2017
MAX_SIDE = 1_000_000  # pixels; no picture is wider, so a larger size is a broken file


class Source(Protocol):
    """A foreign file or folder that holds detections, addressed by image id.

    Attributes:
        brings: what it has beside boxes, of: labels scores attributes features relations size.
        classes: class names in the file's order, () where the file has none.
        predicates: predicate names in the file's order, () where the file has none.
        notes: what a user should know, for example duplicates that were dropped.
        files: every file that is read, for the content key.
    """

    brings: frozenset[str]
    classes: tuple[str, ...]
    predicates: tuple[str, ...]
    notes: list[str]
    files: list[Path]

    def ids(self) -> list[str]:
        """Return the image ids, in the order of the file."""
        ...

    def read(self, image_id: str) -> Detections:
        """Return what the file says about one image.

        Raises: UnknownName: no such image. InputError: the file cannot be read as promised.
        """
        ...


def id_forms(image_id: str) -> list[str]:
    """Return the names under which a file may know an image, the most exact first.

    >>> id_forms("COCO_val2014_000000391895.jpg")
    ['COCO_val2014_000000391895.jpg', 'COCO_val2014_000000391895', '391895', '391895.jpg',
     '000000391895', '000000391895.jpg']
    >>> id_forms("1000092795")
    ['1000092795', '1000092795.jpg']
    """
    stem = _SUFFIX.sub("", image_id)
    coco = _COCO.fullmatch(stem)
    # COCO's 2014 and 2017 editions name the same photos, and files know them by number
    number = [f"{n}{end}" for n in (int(coco[1]), coco[1]) for end in ("", ".jpg")] if coco else []
    return list(
        dict.fromkeys([image_id, stem, *([f"{stem}.jpg"] if stem == image_id else []), *number])
    )


def match_id(known: Collection[str], image_id: str, path: Path) -> str:
    """Return the key for an image: the id itself, or one of its other forms.

    Raises: UnknownName: the file does not have the image.
    """
    for key in id_forms(image_id):
        if key in known:
            return key
    example = next(iter(known), None)
    hint = f"its ids look like {example!r}" if example else "it has no images"
    raise UnknownName(f"{path}: no image {image_id!r} in this file; {hint}.")


def read_json(path: Path | str) -> object:
    """Read a JSON file; duplicate keys, NaN and endless nesting are errors.

    Raises: MissingInput: no such file. InputError: not that JSON.
    """
    return parse_json(read_bytes(path), str(path))


def parse_json(raw: bytes, where: str) -> object:
    """Parse JSON as strictly as ``read_json``.

    Raises: InputError: not that JSON.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
            raise ValueError(f"the key {twice!r} stands twice in one object")
        return found

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    try:
        value: object = json.loads(raw, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not usable JSON ({error}). Is the file complete?") from error
    return value


def read_names(path: Path | str, *, background: str | None = None) -> tuple[str, ...]:
    """Read a list of class names, one per line (``name,alias`` keeps the name).

    Args:
        path: text file.
        background: name to put before the list, for files whose ids count from 1.
    """
    lines = read_text(path).splitlines()
    names = tuple(line.split(",")[0].strip() for line in lines if line.strip())
    return names if background is None else (background, *names)


def decode_base64(field: bytes | str, where: str) -> bytes:
    """Decode one base64 field.

    Raises: InputError: it is not base64.
    """
    try:
        return binascii.a2b_base64(field)
    except (ValueError, binascii.Error) as error:
        raise InputError(f"{where}: not base64 ({error}). The line may be torn.") from error


def decode_floats(field: bytes | str, shape: tuple[int, int], where: str) -> Array:
    """Decode base64 of little-endian float32 into ``shape``; -1 as width is taken from the length.

    Raises: InputError: not base64, or its length does not match the shape.
    """
    rows, width = shape
    raw = decode_base64(field, where)
    if width < 0:
        width = len(raw) // (4 * rows) if rows else 0
    if len(raw) != 4 * rows * width:
        raise InputError(
            f"{where}: {len(raw)} bytes, expected {4 * rows * width} for {rows} boxes of {width} "
            "float32. The line is torn, or the columns stand in another order."
        )
    return np.frombuffer(raw, dtype="<f4").reshape(rows, width).astype(np.float32, copy=False)


def make_detections(
    where: str,
    boxes: npt.ArrayLike,
    *,
    labels: Iterable[str] | None = None,
    scores: npt.ArrayLike | None = None,
    size: Sequence[object] = (0, 0),
    features: npt.NDArray[np.generic] | None = None,
    attributes: Iterable[Iterable[str]] | None = None,
    relations: Iterable[tuple[int, str, int]] | None = None,
    relation_scores: npt.ArrayLike | None = None,
) -> Detections:
    """Check what a foreign file says about one image and put it in order.

    Boxes are clipped to the picture where its size is known. With scores, the boxes are ordered
    best first (equal scores keep the file's order), and features, attributes and relations follow.
    Without labels every box is an ``object``.

    Args:
        where: file and image, for messages.
        boxes: (n, 4) xyxy pixels.   labels: n names.   scores: (n,), ones where None.
        size: (width, height), (0, 0) where the source does not know it.
        features: (n, D).   attributes: n lists of names.
        relations: (subject row, predicate, object row), rows as in ``boxes``.
        relation_scores: (m,).

    Raises:
        InputError: shapes that differ, rows outside, boxes inside out.
        FeatureOverflow: a number that is not finite; names the image and the column.
    """
    width, height = integers(where, "image size", size, 2)
    if not (0 <= width <= MAX_SIDE and 0 <= height <= MAX_SIDE):
        raise InputError(f"{where}: image size {width} x {height} makes no sense.")
    corners = _floats(where, "boxes", boxes)
    if not corners.size:
        corners = corners.reshape(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise InputError(f"{where}: boxes have shape {corners.shape}, not (n, 4).")
    count = len(corners)
    inside_out = np.flatnonzero((corners[:, 2:] < corners[:, :2]).any(1))
    if inside_out.size:
        row = int(inside_out[0])
        raise InputError(
            f"{where}: box {row} is {corners[row].tolist()}; x2 < x1 or y2 < y1, it must be xyxy."
        )
    limit = [width, height] * 2 if width and height else np.inf
    corners = np.clip(corners, 0, np.asarray(limit, dtype=np.float32))
    names = ("object",) * count if labels is None else tuple(map(str, labels))
    marks = np.ones(count, np.float32) if scores is None else _floats(where, "scores", scores)
    traits = None if attributes is None else tuple(tuple(map(str, row)) for row in attributes)
    if features is not None:
        features = _floats(where, "features", features)
        if features.ndim != 2:
            raise InputError(f"{where}: features have shape {features.shape}, not (n, D).")
    for what, column in (
        ("labels", names),
        ("scores", marks.reshape(-1)),
        ("attributes", traits),
        ("features", features),
    ):
        if column is not None and len(column) != count:
            raise InputError(f"{where}: {len(column)} {what} for {count} boxes.")
    check_text(where, "the name", (*names, *(name for row in traits or () for name in row)))
    links, weights = _relations(where, count, relations, relation_scores)
    order = np.argsort(-marks.reshape(-1), kind="stable")
    if scores is not None and (order != np.arange(count)).any():
        place = np.empty(count, np.int64)
        place[order] = np.arange(count)
        corners, marks = corners[order], marks.reshape(-1)[order]
        names = tuple(names[i] for i in order)
        features = None if features is None else features[order]
        traits = None if traits is None else tuple(traits[i] for i in order)
        if links is not None:
            links = tuple((int(place[s]), p, int(place[o])) for s, p, o in links)
    return Detections(
        boxes=np.ascontiguousarray(corners, dtype=np.float32),
        labels=names,
        scores=marks.reshape(-1),
        size=(width, height),
        features=features,
        attributes=traits,
        relations=links,
        relation_scores=weights,
    )


def _relations(
    where: str,
    count: int,
    relations: Iterable[tuple[int, str, int]] | None,
    scores: npt.ArrayLike | None,
) -> tuple[tuple[tuple[int, str, int], ...] | None, Array | None]:
    if relations is None:
        return None, None
    links = tuple(relations)
    check_text(where, "the predicate", (predicate for _, predicate, _ in links))
    for subject, predicate, target in links:
        if not (0 <= subject < count and 0 <= target < count):
            raise InputError(
                f"{where}: relation ({subject}, {predicate!r}, {target}) points at a box that is "
                f"not there; there are {count}."
            )
    marks = np.ones(len(links), np.float32)
    if scores is not None:
        marks = _floats(where, "relation scores", scores).reshape(-1)
    if len(marks) != len(links):
        raise InputError(f"{where}: {len(marks)} relation scores for {len(links)} relations.")
    order = np.argsort(-marks, kind="stable")
    return tuple(links[i] for i in order), marks[order]


def _floats(where: str, column: str, values: npt.ArrayLike) -> Array:
    try:
        wide = np.asarray(values)
        if wide.dtype.kind not in "fiub" and wide.size:
            raise ValueError(f"the values are {wide.dtype}")
        with np.errstate(over="ignore"):
            floats = np.ascontiguousarray(wide, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {column} are not a table of numbers ({error}).") from error
    if not np.isfinite(floats).all():
        at = int(np.flatnonzero(~np.isfinite(floats).reshape(-1))[0])
        raise FeatureOverflow(
            f"{where}: {column} hold a value that is not finite (the {at + 1}. number). "
            "Repair or leave out this image."
        )
    return floats
