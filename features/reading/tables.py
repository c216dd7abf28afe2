"""Make pandas tables of a store: one fact per row, ids as strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.reading.ragged import flat_rows
from features.reading.reader import StoreReader

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]


def _frame(**columns: Any) -> pd.DataFrame:
    import pandas as pd  # slow to load

    return pd.DataFrame(columns)


def _texts(store: StoreReader, name: str, rows: Array) -> Array:
    column = store.group("index").text(name)
    if len(rows) == len(column):
        return np.asarray(column.tolist(), dtype=object)
    return np.asarray([column[row] for row in rows.tolist()], dtype=object)


def _names(store: StoreReader, name: str, at: Any = slice(None)) -> Array:
    column = store.coded(name)
    names: Array = np.asarray(column.names, dtype=object)
    named: Array = np.take(names, column.codes[at])
    return named


def images_table(store: StoreReader) -> pd.DataFrame:
    """Return the usable images: id, file, split, width, height, row."""
    rows = np.flatnonzero(store.usable)
    if store.has("image_size"):
        sizes = store.column("image_size")[rows]
    else:
        sizes = np.zeros((len(rows), 2), np.int32)
    return _frame(
        id=_texts(store, "image_id", rows),
        file=_texts(store, "image_file", rows),
        split=_names(store, "split", rows),
        width=sizes[:, 0],
        height=sizes[:, 1],
        row=rows,
    )


def captions_table(store: StoreReader) -> pd.DataFrame:
    """Return the captions of those images: id, text, image, split, row, image_row."""
    captions = len(store.group("index").text("caption_id"))
    image_of = store.image_of_caption(np.arange(captions))
    rows = np.flatnonzero(store.usable[image_of])
    images, every = image_of[rows], np.arange(len(store))
    return _frame(
        id=_texts(store, "caption_id", rows),
        text=_texts(store, "caption", rows),
        image=_texts(store, "image_id", every)[images],
        split=_names(store, "split", images),
        row=rows,
        image_row=images,
    )


def _ragged(store: StoreReader, captions: pd.DataFrame, axis: str) -> tuple[Array, Array, Array]:
    """Return where the values of a ragged axis are that belong to some captions.

    Returns: for each value its row, the position of its caption in ``captions``, and the row of the
    first object of that caption.
    """
    rows = captions["row"].to_numpy()
    at, owner, _ = flat_rows(store.offsets(f"{axis}_offsets"), rows)
    return at, owner, store.offsets("object_offsets")[rows][owner]


def _taken(frame: pd.DataFrame, owner: Array, **columns: str) -> dict[str, Array]:
    """Return columns of a table under new names, one value per position in ``owner``."""
    return {name: frame[column].to_numpy()[owner] for name, column in columns.items()}


def _corners(boxes: Array) -> dict[str, Array]:
    return dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True))


def _objects(store: StoreReader, captions: pd.DataFrame) -> pd.DataFrame:
    at, owner, start = _ragged(store, captions, "object")
    first = store.offsets("mention_offsets")
    # an object without a token of its own has no mention: position -1
    mentions = np.append(store.column("mention"), -1)
    position = np.where(first[at + 1] > first[at], mentions[first[at]], -1)
    return _frame(
        **_taken(captions, owner, caption="id", image="image", split="split"),
        object=at - start,
        lemma=_names(store, "object_lemma", at),
        position=position,
    )


def _attributes(store: StoreReader, captions: pd.DataFrame) -> pd.DataFrame:
    at, owner, start = _ragged(store, captions, "attribute")
    target = store.column("attribute_object")[at]
    return _frame(
        **_taken(captions, owner, caption="id", image="image", split="split"),
        object=target,
        lemma=_names(store, "object_lemma", start + target),
        attribute=_names(store, "attribute", at),
        position=store.column("attribute_position")[at],
    )


def _relations(store: StoreReader, captions: pd.DataFrame) -> pd.DataFrame:
    at, owner, start = _ragged(store, captions, "relation")
    subject, target = store.column("relation_subject")[at], store.column("relation_object")[at]
    return _frame(
        **_taken(captions, owner, caption="id", image="image", split="split"),
        subject=_names(store, "object_lemma", start + subject),
        predicate=_names(store, "relation_predicate", at),
        object=_names(store, "object_lemma", start + target),
        subject_object=subject,
        object_object=target,
    )


def _slots(store: StoreReader, images: pd.DataFrame, counts: str) -> tuple[Array, Array, Array]:
    """Return image row, position in ``images`` and slot of everything that is not padding."""
    rows = images["row"].to_numpy()
    number = store.column(counts)[rows]
    owner = np.repeat(np.arange(len(rows)), number)
    slot = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    return rows[owner], owner, slot


def _visual_objects(store: StoreReader, images: pd.DataFrame) -> pd.DataFrame:
    row, owner, slot = _slots(store, images, "num_objects")
    return _frame(
        **_taken(images, owner, image="id", split="split"),
        object=slot,
        label=_names(store, "labels", (row, slot)),
        score=store.column("scores")[row, slot],
        **_corners(store.column("boxes")[row, slot]),
    )


def _visual_relations(store: StoreReader, images: pd.DataFrame) -> pd.DataFrame:
    row, owner, slot = _slots(store, images, "num_relations")
    pairs = store.column("relations")[row, slot]
    return _frame(
        **_taken(images, owner, image="id", split="split"),
        subject=_names(store, "labels", (row, pairs[:, 0])),
        predicate=_names(store, "predicates", (row, slot)),
        object=_names(store, "labels", (row, pairs[:, 1])),
        score=store.column("relation_scores")[row, slot],
        subject_object=pairs[:, 0],
        object_object=pairs[:, 1],
        **_corners(store.column("union_boxes")[row, slot]),
    )


CAPTION_TABLES: dict[str, Callable[[StoreReader, pd.DataFrame], pd.DataFrame]] = {
    "attributes": _attributes,
    "objects": _objects,
    "relations": _relations,
}
"""Name -> function of a store and its table of captions."""

IMAGE_TABLES: dict[str, Callable[[StoreReader, pd.DataFrame], pd.DataFrame]] = {
    "visual_objects": _visual_objects,
    "visual_relations": _visual_relations,
}
"""Name -> function of a store and its table of images."""
