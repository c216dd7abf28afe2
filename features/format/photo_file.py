"""Graphs and region features of photos that are not in a store, as one npz file.

``python -m pipeline photo`` writes the file and ``models.search`` reads it. It holds plain arrays
and one JSON document, no pickles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import FeatureOverflow, InputError
from features.format.files import replacing
from features.npz_files import open_npz
from features.records import Detections

_Value = TypeVar("_Value", str, float)
FORMAT = 1
_ARRAYS = ("boxes", "scores", "relation_scores")


class Photo(NamedTuple):
    """One photo: its name as given by the user, its graph and its features."""

    name: str
    found: Detections  # with relations
    object_features: npt.NDArray[Any]  # (n, D)
    union_features: npt.NDArray[Any]  # (m, D)


def write_photos(
    path: Path, photos: Sequence[Photo], notes: Sequence[str] = (), *, dtype: str = "float16"
) -> None:
    """Write photos to a file.

    Args:
        path: the file.   photos: the photos.   notes: messages for the user of the file.
        dtype: dtype of the features. Use that of the store they are compared with, so that a
            photo of the store gets the features that are stored for it.

    Raises:
        FeatureOverflow: a value does not fit the dtype; the message names the photo.
        WriteError: the file cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    about = []
    for at, photo in enumerate(photos):
        found, relations = photo.found, photo.found.relations or ()
        item: dict[str, object] = {"name": photo.name, "size": found.size, "labels": found.labels}
        for name in ("attributes", "attribute_scores", "shown", "relations_shown"):
            item[name] = getattr(found, name)
        about.append({**item, "relations": relations})
        known = found.relation_scores
        scores = np.ones(len(relations)) if known is None else known
        for name, values in zip(_ARRAYS, (found.boxes, found.scores, scores), strict=True):
            arrays[f"{at}/{name}"] = np.asarray(values, np.float32)
        for name in ("object_features", "union_features"):
            with np.errstate(over="ignore"):
                values = np.asarray(getattr(photo, name)).astype(dtype)
            if not np.isfinite(values).all():
                raise FeatureOverflow(
                    f"{photo.name}: a feature is not finite, or too large for {dtype}."
                )
            arrays[f"{at}/{name}"] = values
    document = json.dumps({"format": FORMAT, "photos": about, "notes": list(notes)})
    arrays["about"] = np.frombuffer(document.encode(), np.uint8)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_photos(path: Path) -> tuple[list[Photo], list[str]]:
    """Return the photos and the notes of a file.

    Raises:
        MissingInput: no such file.
        InputError: it was not written by ``write_photos``.
    """
    advice = "`pipeline photo` writes such files."
    with open_npz(path, "a file of photos", advice) as arrays:
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != FORMAT:
            raise InputError(
                f"{path}: photos of format {about['format']}, this version reads {FORMAT}."
            )
        photos = [_photo(arrays, at, item) for at, item in enumerate(about["photos"])]
        return photos, [str(note) for note in about["notes"]]


def _photo(arrays: Any, at: int, item: dict[str, Any]) -> Photo:
    boxes, scores, relation_scores = (arrays[f"{at}/{name}"] for name in _ARRAYS)
    width, height = item["size"]
    found = Detections(
        boxes=boxes,
        labels=tuple(map(str, item["labels"])),
        scores=scores,
        size=(int(width), int(height)),
        relations=tuple((int(s), str(p), int(o)) for s, p, o in item["relations"]),
        relation_scores=relation_scores,
        attributes=_nested(item, "attributes", str) or ((),) * len(item["labels"]),
        attribute_scores=_nested(item, "attribute_scores", float),
        shown=float(item.get("shown", 0)),
        relations_shown=float(item.get("relations_shown", 0)),
    )
    objects, unions = arrays[f"{at}/object_features"], arrays[f"{at}/union_features"]
    lengths = (len(boxes), len(scores), len(objects), len(relation_scores), len(unions))
    n, m = len(found.labels), len(found.relations or ())
    if lengths != (n, n, n, m, m):
        raise ValueError(f"{item['name']}: {lengths} rows for {n} objects and {m} relations")
    return Photo(str(item["name"]), found, objects, unions)


def _nested(
    item: dict[str, Any], name: str, kind: type[_Value]
) -> tuple[tuple[_Value, ...], ...] | None:
    """Return one tuple of values per object, or None if the photo has none."""
    rows = item.get(name)
    if rows is None:
        return None
    if len(rows) != len(item["labels"]):
        raise ValueError(f"{item['name']}: {name} of {len(rows)} objects, not all")
    return tuple(tuple(map(kind, row)) for row in rows)
