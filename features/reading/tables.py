"""The store as pandas tables: one fact a row, ids as strings, columns that can be joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import UnknownName

if TYPE_CHECKING:
    import pandas as pd

    from features.store import Store

__all__ = ["TABLES", "captions_table", "images_table", "make_table"]

Array = npt.NDArray[Any]


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)


def _texts(store: Store, name: str, rows: Array) -> Array:
    column = store.group("index").text(name)
    if len(rows) == len(column):
        return np.asarray(column.tolist(), dtype=object)
    return np.asarray([column[row] for row in rows.tolist()], dtype=object)


def _names(store: Store, name: str, at: Any = slice(None)) -> Array:
    column = store.coded(name)
    names: Array = np.asarray(column.names, dtype=object)
    named: Array = np.take(names, column.codes[at])
    return named


def _usable(store: Store) -> Array:
    rows = [np.zeros(0, np.int64), *store.splits.values()]
    return np.sort(np.concatenate(rows))


def images_table(store: Store) -> pd.DataFrame:
    """Images that can be used: id, file, split, width, height, row."""
    rows = _usable(store)
    if store.has("image_size"):
        sizes = store.column("image_size")[rows]
    else:
        sizes = np.zeros((len(rows), 2), np.int32)
    return _frame(
        {
            "id": _texts(store, "image_id", rows),
            "file": _texts(store, "image_file", rows),
            "split": _names(store, "split", rows),
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "row": rows,
        }
    )


def captions_table(store: Store) -> pd.DataFrame:
    """Captions of the images that can be used: id, text, image, split, row, image_row."""
    parts = [np.zeros(0, np.int64), *(store.caption_rows(split) for split in store.splits)]
    rows = np.sort(np.concatenate(parts))
    images = store.image_of_caption(rows)
    every = np.arange(len(store))
    return _frame(
        {
            "id": _texts(store, "caption_id", rows),
            "text": _texts(store, "caption", rows),
            "image": _texts(store, "image_id", every)[images],
            "split": _names(store, "split", images),
            "row": rows,
            "image_row": images,
        }
    )


def _ragged(store: Store, offsets: str) -> tuple[Array, Array]:
    """Return the flat rows of an axis that belong to shown captions, and their caption's place."""
    from features.reading.ragged import flat_rows

    at, owner, _ = flat_rows(store.offsets(offsets), store.captions["row"].to_numpy())
    return at, owner


def _caption_keys(store: Store, owner: Array) -> dict[str, Any]:
    captions = store.captions
    return {
        "caption": captions["id"].to_numpy()[owner],
        "image": captions["image"].to_numpy()[owner],
        "split": captions["split"].to_numpy()[owner],
    }


def _objects(store: Store) -> pd.DataFrame:
    at, owner = _ragged(store, "object_offsets")
    first = store.offsets("mention_offsets")
    # mentions may be missing: an object without a token has position -1
    mentions = np.append(store.column("mention"), -1)
    position = np.where(first[at + 1] > first[at], mentions[first[at]], -1)
    start = store.offsets("object_offsets")[store.captions["row"].to_numpy()][owner]
    return _frame(
        {
            **_caption_keys(store, owner),
            "object": at - start,
            "lemma": _names(store, "object_lemma", at),
            "position": position,
        }
    )


def _attributes(store: Store) -> pd.DataFrame:
    at, owner = _ragged(store, "attribute_offsets")
    start = store.offsets("object_offsets")[store.captions["row"].to_numpy()][owner]
    target = store.column("attribute_object")[at]
    return _frame(
        {
            **_caption_keys(store, owner),
            "object": target,
            "lemma": _names(store, "object_lemma", start + target),
            "attribute": _names(store, "attribute", at),
            "position": store.column("attribute_position")[at],
        }
    )


def _relations(store: Store) -> pd.DataFrame:
    at, owner = _ragged(store, "relation_offsets")
    start = store.offsets("object_offsets")[store.captions["row"].to_numpy()][owner]
    subject, target = store.column("relation_subject")[at], store.column("relation_object")[at]
    return _frame(
        {
            **_caption_keys(store, owner),
            "subject": _names(store, "object_lemma", start + subject),
            "predicate": _names(store, "relation_predicate", at),
            "object": _names(store, "object_lemma", start + target),
            "subject_object": subject,
            "object_object": target,
        }
    )


def _slots(store: Store, counts: str) -> tuple[Array, Array, Array]:
    """Return image rows, positions in ``store.images`` and slots of everything that is real."""
    rows = store.images["row"].to_numpy()
    number = store.column(counts)[rows]
    owner = np.repeat(np.arange(len(rows)), number)
    slot = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    return rows[owner], owner, slot


def _visual_objects(store: Store) -> pd.DataFrame:
    row, owner, slot = _slots(store, "num_objects")
    boxes = store.column("boxes")[row, slot]
    return _frame(
        {
            "image": store.images["id"].to_numpy()[owner],
            "split": store.images["split"].to_numpy()[owner],
            "object": slot,
            "label": _names(store, "labels", (row, slot)),
            "score": store.column("scores")[row, slot],
            **{name: boxes[:, at] for at, name in enumerate(("x1", "y1", "x2", "y2"))},
        }
    )


def _visual_relations(store: Store) -> pd.DataFrame:
    row, owner, slot = _slots(store, "num_relations")
    pairs = store.column("relations")[row, slot]
    boxes = store.column("union_boxes")[row, slot]
    return _frame(
        {
            "image": store.images["id"].to_numpy()[owner],
            "split": store.images["split"].to_numpy()[owner],
            "subject": _names(store, "labels", (row, pairs[:, 0])),
            "predicate": _names(store, "predicates", (row, slot)),
            "object": _names(store, "labels", (row, pairs[:, 1])),
            "score": store.column("relation_scores")[row, slot],
            "subject_object": pairs[:, 0],
            "object_object": pairs[:, 1],
            **{name: boxes[:, at] for at, name in enumerate(("x1", "y1", "x2", "y2"))},
        }
    )


TABLES: dict[str, Callable[[Store], pd.DataFrame]] = {
    "attributes": _attributes,
    "captions": lambda store: store.captions,
    "images": lambda store: store.images,
    "objects": _objects,
    "relations": _relations,
    "visual_objects": _visual_objects,
    "visual_relations": _visual_relations,
}


def make_table(store: Store, name: str) -> pd.DataFrame:
    """Return one table of a store; see ``Store.table``."""
    if name not in TABLES:
        raise UnknownName.of("table", name, TABLES)
    return TABLES[name](store)
