"""Which images of a store a set of filters selects.

Everything is arithmetic on whole columns, which the store reads once and keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import UnknownName, UsageError
from features.finding import SOURCES, Matches, find, parse_query
from features.reading import CodedColumn
from features.store import Store
from features.web.filters import Filters
from features.web.shelf import Site

__all__ = ["Selection", "least_scores", "neighbours", "object_counts", "select"]

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Selection:
    """The images that filters select.

    Attributes:
        rows: image rows in the order of the grid.
        matches: of the query, if there is one.
        scores: image row -> score of the model, if a text ranks the images.
        notes: remarks for the reader.
    """

    rows: Rows
    matches: Matches | None = None
    scores: dict[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def facts(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Return the places in ``matches`` of some image rows."""
        found: dict[int, list[int]] = {row: [] for row in rows}
        if self.matches is not None:
            for at in np.flatnonzero(np.isin(self.matches.image, np.asarray(rows))).tolist():
                found[int(self.matches.image[at])].append(at)
        return found


def select(site: Site, filters: Filters) -> Selection:
    """Return the images that filters select; the last selections are kept.

    Raises:
        UnknownName: no such split, label, attribute, predicate or run.
        UsageError: not a query.
    """
    whole = filters.whole()
    found: Selection = site.cache.get(("selection", whole), lambda: _select(site, whole))
    return found


def neighbours(selection: Selection, row: int) -> tuple[int | None, int | None, int]:
    """Return the rows before and after an image row in a selection, and its place from 1.

    The place is 0 if the selection does not have the row.
    """
    at = np.flatnonzero(selection.rows == row)
    if not len(at):
        return None, None, 0
    place, rows = int(at[0]), selection.rows
    before = int(rows[place - 1]) if place else None
    after = int(rows[place + 1]) if place + 1 < len(rows) else None
    return before, after, place + 1


def _select(site: Site, filters: Filters) -> Selection:
    store, f = site.store, filters
    scores = least_scores(site, f)
    mask = ~store.usable if f.skipped else store.usable.copy()
    if f.split:
        mask &= _in_split(store, f.split)
    for label in f.labels:
        mask &= _with_label(store, label, scores[0])
    if f.attribute:
        mask &= _either(site, f, f.attribute, "attribute", _SEEN_ATTRIBUTE, _SAID_ATTRIBUTE)
    if f.predicate:
        mask &= _either(site, f, f.predicate, "predicate", _SEEN_PREDICATE, _SAID_PREDICATE)
    if f.least is not None or f.most is not None:
        counts = object_counts(store, scores[0])
        mask &= counts >= (f.least or 0)
        if f.most is not None:
            mask &= counts <= f.most
    matches = None
    rows = np.flatnonzero(mask)
    if f.find:
        sources = (f.source,) if f.source else SOURCES
        query = parse_query(f.find)
        least = scores[query.predicate is not None]  # of objects, or of relations
        matches = find(store, query, sources=sources, min_score=least)
        rows = matches.images[mask[matches.images]]
    if not f.text:
        return Selection(rows, matches)
    if f.run not in site.rankers:
        if not site.rankers:
            raise UsageError("text: no run is loaded that could rank images. Start with --run RUN.")
        raise UnknownName.of("run", f.run, site.rankers)
    ranked = site.rankers[f.run](site, f.text, f.split)
    keep = np.isin(ranked.rows, rows)
    order = ranked.rows[keep]
    known = dict(zip(order.tolist(), ranked.scores[keep].tolist(), strict=True))
    return Selection(order, matches, known, ranked.notes)


def least_scores(site: Site, filters: Filters) -> tuple[float, float]:
    """Return the least scores of objects and of relations that count."""
    chosen = filters.confidence, filters.certainty
    one, other = (
        shown if value is None else value for value, shown in zip(chosen, site.shown, strict=True)
    )
    return one, other


def _in_split(store: Store, split: str) -> Mask:
    column = store.coded("split")
    if split not in column.names:
        raise UnknownName.of("split", split, column.names)
    inside: Mask = column.codes == column.names.index(split)
    return inside


def object_counts(store: Store, confidence: float) -> npt.NDArray[np.int64]:
    """Return how many objects of each image have at least a score, (images,)."""
    if not store.has("labels"):
        return np.zeros(len(store), np.int64)
    counts = store.column("num_objects")
    if confidence <= 0:
        return np.asarray(counts, np.int64)
    scores = store.column("scores")
    real = np.arange(scores.shape[1]) < counts[:, None]
    found: Rows = np.count_nonzero(real & (scores >= confidence), axis=1)
    return found


def _code(column: CodedColumn, name: str) -> int | None:
    """Return the code of a name, whatever its case; None if there is none."""
    if name in column.names:
        return column.names.index(name)
    folded = name.casefold()
    return next((at for at, one in enumerate(column.names) if one.casefold() == folded), None)


def _with_label(store: Store, label: str, confidence: float) -> Mask:
    if not store.has("labels"):
        raise UsageError("label: this store has no detected objects.")
    column = store.coded("labels")
    code = _code(column, label)
    if code is None or not label:
        raise UnknownName.of("label", label, filter(None, column.names))
    found: Mask = column.codes == code
    if confidence > 0:
        found &= store.column("scores") >= confidence
    return np.asarray(found.any(axis=1))


Finder = Callable[[Store, int, tuple[float, float]], Mask]


@dataclass(frozen=True)
class _Place:
    """A coded column in which a name can stand, and what marks the images that have it."""

    column: str
    images: Finder


def _either(site: Site, filters: Filters, name: str, what: str, seen: _Place, said: _Place) -> Mask:
    """Return the images that have an attribute or predicate, seen or said."""
    store, scores = site.store, least_scores(site, filters)
    places = {"images": seen, "captions": said}
    usable = {
        source: place
        for source, place in places.items()
        if filters.source in ("", source) and store.has(place.column)
    }
    mask, known = np.zeros(len(store), bool), list[str]()
    found = False
    for place in usable.values():
        column = store.coded(place.column)
        code = _code(column, name)
        if code is None:
            known += column.names
        else:
            found = True
            mask |= place.images(store, code, scores)
    if not found:
        raise UnknownName.of(what, name, sorted({*known} - {""}))
    return mask


def _marked(store: Store, rows: Any) -> Mask:
    mask = np.zeros(len(store), bool)
    mask[rows] = True
    return mask


def _owners(store: Store, offsets: str, at: Any) -> Any:
    return np.searchsorted(store.offsets(offsets), at, side="right") - 1


def _seen_attribute(store: Store, code: int, scores: tuple[float, float]) -> Mask:
    at = np.flatnonzero(store.coded("object_attribute").codes == code)
    rows = _owners(store, "object_attribute_offsets", at)
    if scores[0] > 0:
        owner = store.column("object_attribute_object")[at]
        rows = rows[store.column("scores")[rows, owner] >= scores[0]]
    return _marked(store, rows)


def _seen_predicate(store: Store, code: int, scores: tuple[float, float]) -> Mask:
    found: Mask = store.coded("predicates").codes == code
    if scores[1] > 0:
        found &= store.column("relation_scores") >= scores[1]
    return np.asarray(found.any(axis=1))


def _said(name: str, offsets: str) -> Finder:
    def images(store: Store, code: int, scores: tuple[float, float]) -> Mask:
        at = np.flatnonzero(store.coded(name).codes == code)
        return _marked(store, store.image_of_caption(_owners(store, offsets, at)))

    return images


_SEEN_ATTRIBUTE = _Place("object_attribute", _seen_attribute)
_SEEN_PREDICATE = _Place("predicates", _seen_predicate)
_SAID_ATTRIBUTE = _Place("attribute", _said("attribute", "attribute_offsets"))
_SAID_PREDICATE = _Place("relation_predicate", _said("relation_predicate", "relation_offsets"))
