"""The grid: one card per image of a page, and what the selection contains most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.web.filters import Filters
from features.web.scene import DOUBTFUL, shades
from features.web.selection import Selection, least_scores, object_counts
from features.web.shelf import Site

__all__ = ["PAGE", "Card", "cards", "facets"]

PAGE = 60  # images on a page
FACTS = 3  # matches that a card names
FACETS = 12  # names of each kind beside the grid
NAMES = 400  # names that a field suggests
RATIOS = (40, 300)  # classes r40 to r300 of the style sheet: width / height in percent


@dataclass(frozen=True)
class Box:
    """A box on a thumbnail, in pixels of the image."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    name: str


@dataclass(frozen=True)
class Card:
    """An image in the grid.

    Attributes:
        row: image row.   id, split: of the image.   caption: its first one.
        ratio: width / height in percent, in steps of 5.   width, height: in pixels.
        objects: how many have the confidence.   boxes: to draw.
        facts: matches of the query, as words.   score: of the model, "" without a text.
        skipped: why it was skipped, "" if it was not.   photo: whether its file is there.
    """

    row: int
    id: str
    split: str
    caption: str
    ratio: int
    width: int
    height: int
    objects: int
    boxes: Sequence[Box]
    facts: Sequence[tuple[str, str, str]]
    score: str
    skipped: str
    photo: bool


def cards(site: Site, filters: Filters, selection: Selection) -> list[Card]:
    """Return the cards of one page."""
    start = (filters.page - 1) * PAGE
    rows = selection.rows[start : start + PAGE].tolist()
    store = site.store
    sizes = [(4, 3)] * len(rows)
    if store.has("image_size"):
        sizes = [(int(w), int(h)) for w, h in store.gather("image_size", rows)]
    counts = object_counts(store, least_scores(site, filters)[0])[rows].tolist() if rows else []
    facts = selection.facts(rows)
    made = []
    for row, size, count in zip(rows, sizes, counts, strict=True):
        width, height = size if min(size) > 0 else (4, 3)
        ratio = int(np.clip(5 * round(20 * width / height), *RATIOS))
        captions = site.caption_rows(row)
        said = site.caption(captions[0]) if len(captions) else ""
        words, spoken = _facts(site, selection, facts[row])
        score = f"{selection.scores[row]:.3f}" if row in selection.scores else ""
        made.append(
            Card(
                row,
                site.image_id(row),
                site.split_of(row),
                spoken or said,
                ratio,
                width,
                height,
                count,
                _boxes(site, filters, selection, row, facts[row]),
                words,
                score,
                site.why_skipped(row),
                site.photos.has(site.file(row)),
            )
        )
    return made


def _facts(
    site: Site, selection: Selection, places: Sequence[int]
) -> tuple[list[tuple[str, str, str]], str]:
    """Return the first matches of an image as words, and the first caption that matches."""
    matches = selection.matches
    if matches is None:
        return [], ""
    words = [
        (matches.subject_name[at], matches.predicate[at], matches.object_name[at]) for at in places
    ]
    said = [int(matches.caption[at]) for at in places if matches.caption[at] >= 0]
    return list(dict.fromkeys(words))[:FACTS], site.caption(said[0]) if said else ""


def _boxes(
    site: Site, filters: Filters, selection: Selection, row: int, places: Sequence[int]
) -> list[Box]:
    """Return the boxes that match the labels or the query, or all of them."""
    store = site.store
    if not store.has("labels") or not store.usable[row]:
        return []
    labels, count = store.coded("labels"), int(store.gather("num_objects", [row])[0])
    names = [labels.names[code] for code in labels.codes[row, :count].tolist()]
    scores = store.gather("scores", [row])[0, :count]
    kinds: dict[int, str] = {}
    confidence = least_scores(site, filters)[0]
    if filters.boxes:
        least = confidence or DOUBTFUL * float(max(scores, default=0.0))
        colours = shades(names)
        kinds = {
            at: f"shade-{colours[names[at]]}" for at in np.flatnonzero(scores >= least).tolist()
        }
    wanted = {label.casefold() for label in filters.labels}
    for at, name in enumerate(names):
        if name.casefold() in wanted and scores[at] >= confidence:
            kinds[at] = "subject"
    if selection.matches is not None:
        for at in places:
            if selection.matches.caption[at] < 0:
                kinds[int(selection.matches.subject[at])] = "subject"
                if selection.matches.object[at] >= 0:
                    kinds.setdefault(int(selection.matches.object[at]), "object")
    if not kinds:
        return []
    corners = store.gather("boxes", [row])[0]
    return [
        Box(x1, y1, x2 - x1, y2 - y1, kind, names[at])
        for at, kind in kinds.items()
        for x1, y1, x2, y2 in [corners[at].tolist()]
    ]


def facets(site: Site, filters: Filters, selection: Selection) -> dict[str, Any]:
    """Return the most frequent labels and predicates of a selection: (name, images) each."""

    def count(name: str, scores: str, least: float) -> list[tuple[str, int]]:
        if not site.store.has(name):
            return []
        column = site.store.coded(name)
        codes = column.codes[selection.rows].astype(np.int64)
        if least > 0:
            kept = site.store.column(scores)[selection.rows] >= least
            codes = np.where(kept, codes, -1)
        codes.sort(axis=1)
        first = np.ones(codes.shape, bool)  # count an image once, however often it has the label
        first[:, 1:] = codes[:, 1:] != codes[:, :-1]
        counts = np.bincount(codes[first & (codes >= 0)], minlength=len(column.names))
        order = np.argsort(-counts, kind="stable")[: FACETS + 1].tolist()
        best = [(column.names[at], int(counts[at])) for at in order if counts[at]]
        return [(text, number) for text, number in best if text][:FACETS]

    def make() -> dict[str, Any]:
        objects, relations = least_scores(site, filters)
        return {
            "labels": count("labels", "scores", objects),
            "predicates": count("predicates", "relation_scores", relations),
        }

    found: dict[str, Any] = site.cache.get(("facets", filters.whole()), make)
    return found


def suggestions(site: Site) -> dict[str, list[str]]:
    """Return the names that the fields suggest: splits, and the most frequent of other kinds."""

    def make() -> dict[str, list[str]]:
        def often(*names: str) -> list[str]:
            total: dict[str, int] = {}
            for name in names:
                if site.store.has(name):
                    column = site.store.coded(name)
                    counts = np.bincount(column.codes.ravel(), minlength=len(column.names))
                    for text, number in zip(column.names, counts.tolist(), strict=True):
                        total[text] = total.get(text, 0) + number
            total.pop("", None)
            return sorted(total, key=lambda text: (-total[text], text))[:NAMES]

        return {
            "splits": list(site.store.splits),
            "labels": often("labels"),
            "attributes": often("object_attribute", "attribute"),
            "predicates": often("predicates", "relation_predicate"),
        }

    found: dict[str, list[str]] = site.cache.get("suggestions", make)
    return found
