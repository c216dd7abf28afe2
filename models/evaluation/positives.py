"""Metrics with several right answers per query, from files of positives.

ECCV Caption and CrissCrossed Captions (CxC) say which images and captions of MS-COCO belong
together beyond the five captions of an image. Their files are read as the package ``eccv_caption``
has them, or as a table of pairs. Every metric is computed from the ranks of all right answers of a
query, and equal scores count against the query, as in ``metrics``.
"""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError, MissingInput, UsageError
from models.evaluation.metrics import LEVELS, image_curves

if TYPE_CHECKING:
    from features.store import Store

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
WAYS = {"i2t": "image_to_caption", "t2i": "caption_to_image"}
LOST = 0.01  # share of answers outside the split, up to which they count as never found
BLOCK = 512  # columns of the score matrix that are copied at a time
PARTS = (*(f"r{level}" for level in LEVELS), "rprecision", "map_at_r")


@dataclass(frozen=True)
class Positives:
    """The right answers of the queries of a split.

    Attributes:
        name: of the set, such as ``eccv``.
        answers: way (``i2t``, ``t2i``) -> position of the query -> positions of its answers.
        left_out: way -> how many queries and answers are not in the split.
        missing: way -> position of the query -> answers outside the split that still count.
    """

    name: str
    answers: dict[str, dict[int, Ints]]
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)
    missing: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The numbers of one set of positives.

    Attributes:
        name: of the set.   values: ``i2t_map_at_r`` ... in percent, see ``PARTS``.
        intervals: bootstrap intervals by name.
        ranks: way -> position of the query -> ranks of its answers, from 1, best first.
        totals: way -> position of the query -> R, the number of its right answers.
    """

    name: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    ranks: dict[str, dict[int, Ints]]
    totals: dict[str, dict[int, int]]


# Reading


def read_positives(path: Path, store: Store, split: str, threshold: float = 3.0) -> Positives:
    """Read positives for the images and captions of a split.

    Args:
        path: ``DIR/NAME`` for the two files ``NAME_image_to_caption.json`` and
            ``NAME_caption_to_image.json`` of ECCV Caption, each ``{id: [ids]}``; or a CSV or TSV
            file with the columns ``image``, ``caption`` and optionally ``score`` or ``agg_score``.
        store: the store.   split: items of the split are queries and answers.
        threshold: pairs of a table with a lower score are no positives.

    Answers that are not in the split count as never found, as in ``eccv_caption``, if they are at
    most a hundredth of all. If there are more, the split is a part of what the file is about, and
    they are left out.

    An image is meant by its id in the store or by the number at the end of it, without leading
    zeros, such as COCO's 391895; a caption likewise.

    Raises:
        MissingInput: there is no such file.
        InputError: a file is damaged, or has no pair of the split.
    """
    images = Names(store.column("image_id")[store.image_rows(split)].tolist(), "images")
    captions = Names(store.column("caption_id")[store.caption_rows(split)].tolist(), "captions")
    name, given = _read(path, threshold)
    sides = {"i2t": (images, captions), "t2i": (captions, images)}
    answers: dict[str, dict[int, Ints]] = {}
    left_out: dict[str, tuple[int, int]] = {}
    missing: dict[str, dict[int, int]] = {}
    for way, (queries, items) in sides.items():
        known = {queries.place(query): found for query, found in given[way].items()}
        lost = len(given[way]) - len(known.keys() - {None})
        answers[way], missing[way] = {}, {}
        for query, found in known.items():
            places = [items.place(item) for item in dict.fromkeys(found)]
            real = sorted({place for place in places if place is not None})
            if query is not None and real:
                answers[way][query] = np.asarray(real, np.int64)
                missing[way][query] = len(places) - len(real)
        gone = sum(missing[way].values())
        left_out[way] = lost, gone
        if gone > LOST * sum(len(found) for found in answers[way].values()):
            missing[way] = {}
        if not answers[way]:
            raise InputError(
                f"{path}: has no {WAYS[way].replace('_', ' ')} pair of split {split!r}. Its ids "
                f"start with {next(iter(given[way]), None)!r}, those of the store with "
                f"{queries.first!r}."
            )
    return Positives(name, answers, left_out, missing)


class Names:
    """Positions of ids, also by the number at the end of an id."""

    def __init__(self, ids: Sequence[str], what: str) -> None:
        self.first = ids[0] if ids else None
        self._exact = {str(name): at for at, name in enumerate(ids)}
        self._numbers: dict[str, int | None] = {}
        for at, name in enumerate(ids):
            number = _number(str(name))
            if number:
                self._numbers[number] = None if number in self._numbers else at
        self._what = what

    def place(self, name: str) -> int | None:
        """Return the position of an id, None if it has none.

        Raises: InputError: several ids end with this number.
        """
        if name in self._exact:
            return self._exact[name]
        number = _number(name)
        if number not in self._numbers:
            return None
        if self._numbers[number] is None:
            raise InputError(
                f"several {self._what} of the split end with the number {number}. Name them by "
                "their whole ids in the file of positives."
            )
        return self._numbers[number]


def _number(name: str) -> str:
    """Return the number at the end of a name, without its extension and leading zeros.

    >>> _number("COCO_val2014_000000391895.jpg"), _number("12"), _number("a.jpg#3")
    ('391895', '12', '')
    """
    found = re.search(r"(?:^|[_/:])0*(\d+)(?:\.[A-Za-z]+)?$", name)
    return found[1] if found else ""


def _read(path: Path, threshold: float) -> tuple[str, dict[str, dict[str, list[str]]]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        return path.stem, _read_table(path, threshold)
    files = {way: path.with_name(f"{path.name}_{ending}.json") for way, ending in WAYS.items()}
    return path.name, {way: _read_json(file) for way, file in files.items()}


def _read_json(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such file of positives. Check --positives.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise InputError(f"{path}: should hold {{id: [ids]}}, one list for each query.")
    return {str(query): [str(item) for item in found] for query, found in content.items()}


def _read_table(path: Path, threshold: float) -> dict[str, dict[str, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(
                csv.DictReader(file, dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            )
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such file of positives. Check --positives.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}).") from error
    if not rows or not {"image", "caption"} <= set(rows[0]):
        raise InputError(
            f"{path}: has the columns {sorted(map(str, rows[0])) if rows else []}, but should have "
            "image, caption and optionally score."
        )
    found: dict[str, dict[str, list[str]]] = {"i2t": {}, "t2i": {}}
    for line, row in enumerate(rows, 2):
        image, caption, score = row["image"], row["caption"], row.get("score", row.get("agg_score"))
        try:
            wanted = score is None or float(score) >= threshold
        except ValueError as error:
            raise InputError(f"{path}: line {line}: score {score!r} is not a number.") from error
        if image and caption and wanted:
            found["i2t"].setdefault(image, []).append(caption)
            found["t2i"].setdefault(caption, []).append(image)
    return found


# Metrics


def ranks_of(scores: npt.NDArray[Any], answers: Ints) -> Ints:
    """Return the ranks, from 1, of the right answers of a query, best first.

    Wrong items with an equal score stand before a right one.

    >>> ranks_of(np.array([0.9, 0.5, 0.5, 0.7]), np.array([0, 2]))
    array([1, 4])

    Args:
        scores: (items,) of one query.   answers: positions of the right ones.
    """
    own = -np.sort(-scores[answers], kind="stable")
    above = (scores >= own[:, None]).sum(1) - (own >= own[:, None]).sum(1)  # wrong ones
    ranks: Ints = above + np.arange(1, len(own) + 1)
    return ranks


def query_metrics(ranks: Ints, total: int) -> tuple[float, ...]:
    """Return R@1, R@5, R@10, R-Precision and mAP@R of one query, each from 0 to 1.

    With R right answers, R-Precision is the share of them among the first R items, and mAP@R the
    mean over these R places of the precision at the places of right answers, 0 at the others.

    Args:
        ranks: of right answers, from 1, best first.   total: R.
    """
    places = np.arange(1, len(ranks) + 1)
    near = ranks <= total
    precision = float(near.sum()) / total
    average = float((places[near] / ranks[near]).sum()) / total
    return *(float(ranks[0] <= level) for level in LEVELS), precision, average


def evaluate_positives(
    sims: npt.NDArray[Any],
    caption_to_image: Ints,
    positives: Positives,
    *,
    samples: int = 0,
    seed: int = 0,
) -> Found:
    """Return the metrics of a score matrix for a set of positives.

    Args:
        sims: (n_images, n_captions).   caption_to_image: (n_captions,).   positives: the answers.
        samples: bootstrap samples of images for the intervals; 0: no intervals.   seed: of these.

    Raises: UsageError: the matrix does not fit the positives.
    """
    _check(sims, positives)
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    ranks: dict[str, dict[int, Ints]] = {}
    totals: dict[str, dict[int, int]] = {}
    for way, answers in positives.answers.items():
        rows = _rows(sims, way)
        ranks[way] = {query: ranks_of(rows(query), answers[query]) for query in sorted(answers)}
        outside = positives.missing.get(way, {})
        totals[way] = {
            query: len(found) + outside.get(query, 0) for query, found in ranks[way].items()
        }
        each = np.array(
            [query_metrics(found, totals[way][query]) for query, found in ranks[way].items()]
        )  # (queries, 5)
        values |= {
            f"{way}_{part}": 100 * float(mean)
            for part, mean in zip(PARTS, each.mean(0), strict=True)
        }
        if samples:
            queries = np.fromiter(ranks[way], np.int64)
            owner = queries if way == "i2t" else caption_to_image[queries]
            curves = image_curves(each, owner, samples, seed)  # (samples, 5)
            for part, curve in zip(PARTS, curves.T, strict=True):
                low, high = np.percentile(100 * curve, [2.5, 97.5])
                intervals[f"{way}_{part}"] = float(low), float(high)
    return Found(positives.name, values, intervals, ranks, totals)


def _rows(sims: npt.NDArray[Any], way: str) -> Callable[[int], npt.NDArray[Any]]:
    """Return what gives the scores of a query; those of captions are copied in blocks."""
    if way == "i2t":
        return lambda query: sims[query]

    @functools.lru_cache(1)
    def block(number: int) -> npt.NDArray[Any]:
        return np.ascontiguousarray(sims[:, number * BLOCK : (number + 1) * BLOCK].T)

    return lambda query: block(query // BLOCK)[query % BLOCK]


def _check(sims: npt.NDArray[Any], positives: Positives) -> None:
    for way, axes in (("i2t", (0, 1)), ("t2i", (1, 0))):
        answers = positives.answers[way]
        largest = max(answers), max(int(found.max()) for found in answers.values())
        if any(at >= sims.shape[axis] for at, axis in zip(largest, axes, strict=True)):
            raise UsageError(
                f"positives {positives.name!r} are of another split: the scores have shape "
                f"{sims.shape}."
            )


def describe(positives: Positives) -> str:
    """Return how many queries a set has, and what of its files is not in the split."""
    counts = [
        f"{len(positives.answers[way]):,} {what}"
        for way, what in (("i2t", "images"), ("t2i", "captions"))
    ]
    lost = [sum(parts) for parts in zip(*positives.left_out.values(), strict=True)]
    text = f"{positives.name}: {' and '.join(counts)} with positives"
    if any(lost):
        counted = any(any(queries.values()) for queries in positives.missing.values())
        text += f"; {lost[0]:,} queries and {lost[1]:,} answers are not in the split"
        text += ", these answers count as never found" if counted else ""
    return text


def rows_of(
    found: Found, image_ids: Sequence[str], caption_ids: Sequence[str]
) -> Iterable[Mapping[str, Any]]:
    """Yield a row for each query: way, id, ranks of its right answers, metrics."""
    for way, ranks in found.ranks.items():
        ids = image_ids if way == "i2t" else caption_ids
        for query, places in ranks.items():
            metrics = dict(zip(PARTS, query_metrics(places, found.totals[way][query]), strict=True))
            yield {"direction": way, "query": ids[query], "ranks": places.tolist(), **metrics}
