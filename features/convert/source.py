"""What every reader of a foreign format is, and the checks that all of them share.

Nothing that a file states is trusted: counts are compared with the bytes that are there, numbers
must be finite, relations must refer to existing boxes.
"""

from __future__ import annotations

import abc
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import damaged
from features.convert.safe.values import check_text, integers, text_of
from features.errors import FeatureOverflow, InputError, UnknownName
from features.names import base_name, fold, same_place
from features.records import Detections, ImageEntry, TextGraph

Array = npt.NDArray[np.float32]
_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")  # the file names of COCO 2014 and 2017
_NO_NAMES = frozenset({"None", "nan", "NaN", "null", "NULL", "<NA>"})
_ROUNDING = 1e-3  # of scores
MAX_SIDE = 1_000_000  # pixels; a larger size means a broken file


class Source(abc.ABC):
    """A foreign file or folder that holds detections, addressed by image id.

    Attributes:
        path: the file or folder.
        files: every file that is read, for the content key.
        provides: what it has beside boxes, of: labels scores attributes features relations size.
        classes, predicates: names in the file's order, () where the file has none.
        notes: what a user should know, for example dropped duplicates.
        numbered: whether ids can be the ``imgid`` of Karpathy's JSON.
        index: image id -> where the file has the image, in the order of the file.
    """

    provides: frozenset[str] = frozenset()
    numbered = False
    classes: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()

    def __init__(self, path: Path | str, files: Iterable[Path] = ()) -> None:
        self.path = Path(path)
        self.files = list(files)
        self.notes: list[str] = []
        self.index: Mapping[str, Any] = {}

    def ids(self) -> list[str]:
        """Return the image ids, in the order of the file."""
        return list(self.index)

    def key(self, image_id: str) -> str:
        """Return the id of an image in the file: this one, or another of its forms.

        Raises: UnknownName: the file does not have the image.
        """
        found = self.find(image_id)
        if found is not None:
            return found
        example = next(iter(self.index), None)
        hint = f"its ids look like {example!r}" if example else "it has no images"
        raise UnknownName(f"{self.path}: no image {image_id!r} in this file; {hint}.")

    def find(self, *names: str) -> str | None:
        """Return the id in the file of an image with one of these names; None without one.

        Forms of the names as they are count first. Then folders are left out, as far as they do
        not contradict each other, and upper case and Unicode normal forms are ignored.

        Raises: InputError: several ids of the file fit.
        """
        forms = [form for name in names if name for form in id_forms(name)]
        if found := next((form for form in forms if form in self._known), None):
            return found
        given = [name for name in names if name]
        for name in given:
            for form in id_forms(base_name(name)):
                near = [
                    key
                    for key in self._by_name.get(fold(form), ())
                    if all(same_place(other, key) for other in given)
                ]
                if len(near) > 1:
                    raise InputError(
                        f"{self.path}: image {name!r} can be {near[0]!r} or {near[1]!r}. Name it "
                        "with its folder, or remove all but one of them."
                    )
                if near:
                    return near[0]
        return None

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.ids())

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Ids by their last part."""
        found: dict[str, list[str]] = {}
        for key in self.ids():
            found.setdefault(fold(base_name(key)), []).append(key)
        return found

    def read(self, image_id: str) -> Detections:
        """Return the detections of one image.

        Boxes and sizes that the file does not have are zeros, scores ones.

        Raises: UnknownName: no such image. InputError: damaged or contradictory data.
        """
        return self._read(self.key(image_id))

    @abc.abstractmethod
    def _read(self, key: str) -> Detections:
        """Return the detections of one image, by its id in the file."""

    def unions(self, image_id: str) -> npt.NDArray[np.generic] | None:
        """Return the features of an image's union boxes, a row per relation; None without them."""
        return None

    def images(self) -> list[ImageEntry] | None:
        """Return the images with their captions, None where the source has no captions."""
        return None

    def tokens(self) -> Mapping[str, TextGraph] | None:
        """Return caption id -> tokens and heads, None where the source has no parses."""
        return None

    def close(self) -> None:  # noqa: B027  (most sources keep no file open)
        """Close open files; the source cannot be used afterwards."""


def id_forms(image_id: str) -> list[str]:
    """Return the names that a file may use for an image, the most exact first.

    >>> id_forms("COCO_val2014_000000391895.jpg")
    ['COCO_val2014_000000391895.jpg', 'COCO_val2014_000000391895', '391895', '391895.jpg',
     '000000391895', '000000391895.jpg']
    >>> id_forms("1000092795")
    ['1000092795', '1000092795.jpg']
    """
    stem = _SUFFIX.sub("", image_id)
    coco = _COCO.fullmatch(stem)
    # COCO's 2014 and 2017 editions have the same photos, and files often use their numbers
    number = [f"{n}{end}" for n in (int(coco[1]), coco[1]) for end in ("", ".jpg")] if coco else []
    return list(
        dict.fromkeys([image_id, stem, *([f"{stem}.jpg"] if stem == image_id else []), *number])
    )


def make_detections(
    where: str,
    boxes: npt.ArrayLike,
    *,
    labels: Iterable[object] | None = None,
    scores: npt.ArrayLike | None = None,
    size: Sequence[object] = (0, 0),
    features: npt.NDArray[np.generic] | None = None,
    attributes: Iterable[Iterable[object]] | None = None,
    relations: Iterable[tuple[int, str, int]] | None = None,
    relation_scores: npt.ArrayLike | None = None,
) -> Detections:
    """Check and sort the detections of one image of a foreign file.

    Boxes are clipped to the image if its size is known. With scores, the objects are sorted best
    first (equal scores keep the file's order), and relations by their scores. Without labels every
    box is an ``object``.

    Args:
        where: file and image, for messages.
        boxes: (n, 4) xyxy pixels.   labels: n names.   scores: (n,), None for ones.
        size: (width, height), (0, 0) if unknown.
        features: (n, D).   attributes: n lists of names.
        relations: (subject row, predicate, object row), rows as in ``boxes``.
        relation_scores: (m,), None for ones.

    Raises:
        InputError: shapes that differ, rows outside, x2 < x1 or y2 < y1.
        FeatureOverflow: a number that is not finite; the message names image and column.
    """
    width, height = integers(where, "image size", size, 2)
    if not (width and height):
        width = height = 0  # half a size is none
    if not (0 <= width <= MAX_SIDE and 0 <= height <= MAX_SIDE):
        raise InputError(f"{where}: an image size of {width} x {height} is not possible.")
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
    limit = np.asarray([width, height] * 2 if width and height else np.inf, np.float32)
    names = ("object",) * count if labels is None else _texts(where, "a label", labels)
    traits = None
    if attributes is not None:
        traits = tuple(_texts(where, "an attribute", row) for row in attributes)
    values = _scores(where, "scores", np.ones(count) if scores is None else scores)
    if features is not None:
        features = _floats(where, "features", features)
        if features.ndim != 2:
            raise InputError(f"{where}: features have shape {features.shape}, not (n, D).")
    columns = {"labels": names, "scores": values, "attributes": traits, "features": features}
    for what, column in columns.items():
        if column is not None and len(column) != count:
            raise InputError(f"{where}: {len(column)} {what} for {count} boxes.")
    check_text(where, "the name", (*names, *(name for row in traits or () for name in row)))
    links, weights = _relations(where, count, relations, relation_scores)
    found = Detections(
        boxes=np.ascontiguousarray(np.clip(corners, 0, limit)),
        labels=names,
        scores=values,
        size=(width, height),
        features=features,
        attributes=traits,
        relations=links,
        relation_scores=weights,
    )
    order = np.argsort(-values, kind="stable")
    return found if (order == np.arange(count)).all() else found.select(order.tolist())


def _texts(where: str, what: str, values: Iterable[object]) -> tuple[str, ...]:
    names = tuple(text_of(where, what, value) for value in values)
    for name in names:
        if not name.strip() or name in _NO_NAMES:
            raise InputError(f"{where}: {what} is {name!r}, which names nothing.")
    return names


def _relations(
    where: str,
    count: int,
    relations: Iterable[tuple[int, str, int]] | None,
    scores: npt.ArrayLike | None,
) -> tuple[tuple[tuple[int, str, int], ...] | None, Array | None]:
    if relations is None:
        return None, None
    links = tuple(relations)
    predicates = _texts(where, "a predicate", (predicate for _, predicate, _ in links))
    check_text(where, "the predicate", predicates)
    for subject, predicate, target in links:
        if not (0 <= subject < count and 0 <= target < count):
            raise InputError(
                f"{where}: relation ({subject}, {predicate!r}, {target}) refers to a missing box; "
                f"there are {count}."
            )
    given = np.ones(len(links)) if scores is None else scores
    values = _scores(where, "relation scores", given)
    if len(values) != len(links):
        raise InputError(f"{where}: {len(values)} relation scores for {len(links)} relations.")
    order = np.argsort(-values, kind="stable")
    return tuple(links[i] for i in order), values[order]


def _scores(where: str, column: str, values: npt.ArrayLike) -> Array:
    """Return scores, which lie between 0 and 1 but for rounding."""
    found = _floats(where, column, values).reshape(-1)
    outside = np.flatnonzero((found < -_ROUNDING) | (found > 1 + _ROUNDING))
    if outside.size:
        row = int(outside[0])
        raise InputError(
            f"{where}: {column}: number {row + 1} is {found[row]:g}, not between 0 and 1."
        )
    return np.clip(found, 0, 1)


def _has_bool(values: object) -> bool:
    """Return whether true or false stand among the numbers of a list, of which numpy makes 1."""
    if isinstance(values, (list, tuple)):
        return any(map(_has_bool, values))
    return isinstance(values, (bool, np.bool_))


def _floats(where: str, column: str, values: npt.ArrayLike) -> Array:
    kinds = (TypeError, ValueError, OverflowError)
    with damaged(f"{where}: {column} are not a table of numbers", *kinds):
        wide = np.asarray(values)
        if _has_bool(values):
            raise ValueError("true or false stands among them")
        if wide.dtype.kind not in "fiu" and wide.size:
            raise ValueError(f"the values are {wide.dtype}")
        with np.errstate(over="ignore"):
            floats = np.ascontiguousarray(wide, dtype=np.float32)
    if not np.isfinite(floats).all():
        at = int(np.flatnonzero(~np.isfinite(floats).reshape(-1))[0])
        raise FeatureOverflow(
            f"{where}: {column}: value number {at + 1} is not finite. Repair or remove this image."
        )
    return floats
