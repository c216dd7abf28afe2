"""P(predicate | subject label, object label, geometry): counts with back-off, and their fit.

Neural Motifs' frequency baseline, extended by geometry and by the objects' places in the detector's
order: log-linear terms whose weights are fitted on images that the counts have not seen, so that
the scores are probabilities.

For an ordered pair of labels (a, b), ``P(p | a, b)`` is its relative frequency over all pairs of
objects, related or not, backed off to ``P(p | a) P(p | b) / P(p)`` with the weight of 20 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InputError, UsageError
from features.records import Detections
from pipeline.vision.boxes import areas, intersections

__all__ = ["CELLS", "Graph", "PriorTable", "fit_prior", "geometry_cells"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BACK_OFF = 20.0  # pairs that the back-off distribution counts for
SHARES = (1e-4, 0.2, 0.5, 0.8, 0.95)  # share of one box inside the other
DROPS = (-1.0, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 1.0)  # object below subject, in subject heights
SIDES = (0.1, 0.2, 0.35, 0.5, 1.0)  # object beside subject, in subject widths
LOG_SIZES = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)  # log of area of object / subject
OVERLAPS = (1e-4, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # IoU
CELLS = (36, 54, 80)  # containment; place; size and overlap
CHOICE = (0.5, 0.5, 0.3)  # weight of each geometry when predicates compete
RANKS = 36  # places in the detector's order that have a weight of their own
TERMS = 15  # of the log-linear model, the constant included


class Graph(NamedTuple):
    """What one image (or caption) teaches: labels, relations, and boxes where there are any."""

    labels: Sequence[str]
    relations: Sequence[tuple[int, str, int]]
    boxes: npt.NDArray[np.float32] | None = None


def geometry_cells(boxes: npt.NDArray[np.float32]) -> Ints:
    """Return the three geometry cells of every ordered pair of boxes, (3, n, n) int64."""
    area = np.maximum(areas(boxes), 1.0)
    shared = intersections(boxes, boxes)
    within = shared / area[:, None]
    overlap = shared / np.maximum(area[:, None] + area[None, :] - shared, 1.0)
    width = np.maximum(boxes[:, 2] - boxes[:, 0], 1.0)
    height = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    side = np.abs(x[None, :] - x[:, None]) / width[:, None]
    drop = (y[None, :] - y[:, None]) / height[:, None]
    size = np.log(width * height)
    inside = np.digitize(within, SHARES)
    return np.stack(
        [
            inside * 6 + inside.T,
            np.digitize(drop, DROPS) * 6 + np.digitize(side, SIDES),
            np.digitize(size[None, :] - size[:, None], LOG_SIZES) * 8
            + np.digitize(overlap, OVERLAPS),
        ]
    )


class _Pairs(NamedTuple):
    """All ordered pairs of the objects of some images, one entry each."""

    image: Ints
    places: Ints  # (2, m) rows of subject and object, at most RANKS - 1
    labels: Ints  # (2, m) label ids
    predicate: Ints  # predicate id, or the number of predicates where not related
    cells: Ints  # (3, m) geometry cells, -1 without boxes


@dataclass(frozen=True, eq=False)
class PriorTable:
    """The fitted counts and weights.

    Attributes:
        labels, predicates: the names that the axes stand for; unknown labels back off.
        pairs: (L, L) ordered pairs seen.   counts: (L, L, P) of them related by each predicate.
        geometry: three (P, cells) log ratios of a related pair's geometry to any pair's.
        fit: three (2, L, cells) log ratios, related to any, by subject or object label.
        ranks: (2, RANKS) log ratios by place in the detector's order.
        weights: (TERMS,) of the log-linear model.
        about: what it was made from.
    """

    labels: tuple[str, ...]
    predicates: tuple[str, ...]
    pairs: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float32]
    geometry: tuple[npt.NDArray[np.float32], ...]
    fit: tuple[npt.NDArray[np.float32], ...]
    ranks: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    about: str = ""

    @cached_property
    def log_pairs(self) -> npt.NDArray[np.float32]:
        """Return log P(p | a, b), (L + 1, L + 1, P); the last label is the unknown one."""
        n = len(self.labels)
        counts = np.zeros((n + 1, n + 1, len(self.predicates)))
        counts[:n, :n] = self.counts
        pairs = np.zeros((n + 1, n + 1))
        pairs[:n, :n] = self.pairs
        overall = (counts.sum((0, 1)) + 0.1) / max(pairs.sum(), 1)
        subject = (counts.sum(1) + BACK_OFF * overall) / (pairs.sum(1)[:, None] + BACK_OFF)
        target = (counts.sum(0) + BACK_OFF * overall) / (pairs.sum(0)[:, None] + BACK_OFF)
        apart = np.minimum(subject[:, None] * target[None] / overall, 0.9)
        smooth = (counts + BACK_OFF * apart) / (pairs[..., None] + BACK_OFF)
        logs: npt.NDArray[np.float32] = np.log(smooth).astype(np.float32)
        return logs

    @cached_property
    def _row(self) -> dict[str, int]:
        return {label: at for at, label in enumerate(self.labels)}

    def label_rows(self, labels: Iterable[str]) -> Ints:
        """Return the row of each label; an unknown one is looked up by its last word."""
        row = self._row
        unknown = len(row)
        return np.array(
            [row.get(name, row.get(name.split(" ")[-1], unknown)) for name in labels], np.int64
        )

    def score(self, pairs: _Pairs) -> tuple[Ints, Floats]:
        """Return the best predicate of each pair and the terms of its log-odds, (m, TERMS)."""
        log_pairs = self.log_pairs[pairs.labels[0], pairs.labels[1]]
        competing = log_pairs.copy()
        boxed = pairs.cells[0, 0] >= 0 if pairs.cells.size else False
        if boxed:
            for table, cells, weight in zip(self.geometry, pairs.cells, CHOICE, strict=True):
                competing += weight * table[:, cells].T
        best = competing.argmax(1)
        terms = np.zeros((len(best), TERMS))
        terms[:, 0] = log_pairs[np.arange(len(best)), best]
        if boxed:
            known = np.minimum(pairs.labels, len(self.labels) - 1)
            for at in range(3):
                terms[:, 1 + at] = self.geometry[at][best, pairs.cells[at]]
                for end in (0, 1):
                    value = self.fit[at][end][known[end], pairs.cells[at]]
                    terms[:, 4 + 2 * at + end] = np.where(
                        pairs.labels[end] < len(self.labels), value, 0
                    )
            terms[:, 10] = self.ranks[0][pairs.places[0]]
            terms[:, 11] = self.ranks[1][pairs.places[1]]
            terms[:, 12] = pairs.cells[2] % 8 > 0  # the boxes touch
        terms[:, 13] = pairs.labels[0] == pairs.labels[1]
        terms[:, 14] = 1
        return best, terms

    def judge(self, found: Detections) -> tuple[Ints, Ints, Floats]:
        """Return all ordered pairs (m, 2), the best predicate of each and its probability."""
        pairs = _collect([Graph(found.labels, (), found.boxes)], self.label_rows, {})
        if not len(pairs.image):
            return np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0)
        best, terms = self.score(pairs)
        n = len(found.labels)
        return np.argwhere(~np.eye(n, dtype=bool)), best, _sigmoid(terms @ self.weights)

    def save(self, path: Path | str) -> None:
        """Write the table as npz, names as UTF-8 JSON inside."""
        where = np.argwhere(self.counts > 0).astype(np.int16)
        np.savez_compressed(
            Path(path),
            labels=np.array(self.labels),
            predicates=np.array(self.predicates),
            pairs=self.pairs.astype(np.int32),
            counted=where,
            counts=self.counts[tuple(where.T)].astype(np.int32),
            ranks=self.ranks,
            weights=self.weights,
            about=np.array(self.about),
            geometry0=self.geometry[0].astype(np.float16),
            geometry1=self.geometry[1].astype(np.float16),
            geometry2=self.geometry[2].astype(np.float16),
            fit0=self.fit[0].astype(np.float16),
            fit1=self.fit[1].astype(np.float16),
            fit2=self.fit[2].astype(np.float16),
        )

    @classmethod
    def load(cls, path: Path | str) -> PriorTable:
        """Read what ``save`` wrote.

        Raises: InputError: not such a file. MissingInput: no such file.
        """
        from features.convert.safe.inputs import need_file

        try:
            with np.load(need_file(path), allow_pickle=False) as data:
                labels, predicates = data["labels"].tolist(), data["predicates"].tolist()
                counts = np.zeros((len(labels), len(labels), len(predicates)), np.float32)
                counts[tuple(data["counted"].T.astype(np.int64))] = data["counts"]
                return cls(
                    tuple(labels),
                    tuple(predicates),
                    data["pairs"].astype(np.float32),
                    counts,
                    tuple(data[f"geometry{at}"].astype(np.float32) for at in range(3)),
                    tuple(data[f"fit{at}"].astype(np.float32) for at in range(3)),
                    data["ranks"],
                    data["weights"],
                    str(data["about"]),
                )
        except (KeyError, ValueError, IndexError, OSError) as error:
            if isinstance(error, UsageError):
                raise
            raise InputError(
                f"{path}: not a table of fit-relations ({error}). Fit it again."
            ) from error


def fit_prior(
    graphs: Iterable[Graph], about: str = "", predicates: Iterable[str] = ()
) -> PriorTable:
    """Fit counts on all graphs, and the weights by cross-fitting over two halves.

    Args:
        graphs: one per image or caption, with relations; boxes in all of them or in none.
        about: what they are, kept in the table.
        predicates: names that the table shall know beside those it sees.

    Raises: UsageError: fewer than two graphs have a relation, or only some have boxes.
    """
    usable = [graph for graph in graphs if len(graph.labels) > 1]
    if sum(bool(graph.relations) for graph in usable) < 2:
        raise UsageError("at least two graphs with relations are needed to fit predicates.")
    if len({graph.boxes is None for graph in usable}) > 1:
        raise UsageError("some graphs have boxes and some have none: fit them apart.")
    labels = tuple(sorted({label for graph in usable for label in graph.labels}))
    seen = {name for graph in usable for _, name, _ in graph.relations}
    known = tuple(sorted({*seen, *predicates}))
    row = {label: at for at, label in enumerate(labels)}
    code = {predicate: at for at, predicate in enumerate(known)}

    def rows(names: Iterable[str]) -> Ints:
        return np.array([row[name] for name in names], np.int64)

    halves = [_collect(usable[half::2], rows, code) for half in (0, 1)]
    flat = np.zeros(TERMS, np.float32)
    tables = [_count(half, labels, known, flat, about) for half in halves]
    scored = [tables[1 - half].score(halves[half])[1] for half in (0, 1)]
    related = [half.predicate < len(known) for half in halves]
    weights = _logistic(np.concatenate(scored), np.concatenate(related).astype(np.float64))
    both = _Pairs(*(np.concatenate(parts, axis=-1) for parts in zip(*halves, strict=True)))
    return _count(both, labels, known, weights.astype(np.float32), about)


def _collect(
    graphs: Sequence[Graph], rows: Callable[[Iterable[str]], Ints], code: dict[str, int]
) -> _Pairs:
    parts = []
    for at, graph in enumerate(graphs):
        n = len(graph.labels)
        ids = rows(graph.labels)
        subject, target = np.nonzero(~np.eye(n, dtype=bool))
        predicate = np.full((n, n), len(code), np.int64)
        for s, name, o in reversed(graph.relations):  # the first of several counts
            predicate[s, o] = code[name]
        cells = np.full((3, n, n), -1) if graph.boxes is None else geometry_cells(graph.boxes)
        places = np.minimum(np.stack([subject, target]), RANKS - 1)
        parts.append(
            _Pairs(
                np.full(len(subject), at),
                places,
                np.stack([ids[subject], ids[target]]),
                predicate[subject, target],
                cells[:, subject, target],
            )
        )
    return _Pairs(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def _count(
    pairs: _Pairs,
    labels: tuple[str, ...],
    predicates: tuple[str, ...],
    weights: npt.NDArray[np.float32],
    about: str,
) -> PriorTable:
    """Turn pairs into tables."""
    n, p = len(labels), len(predicates)
    related = pairs.predicate < p
    seen = np.zeros((n, n), np.float32)
    np.add.at(seen, (pairs.labels[0], pairs.labels[1]), 1)
    counts = np.zeros((n, n, p), np.float32)
    linked = pairs.labels[:, related]
    np.add.at(counts, (linked[0], linked[1], pairs.predicate[related]), 1)
    geometry, fits = [], []
    for cells, size in zip(pairs.cells, CELLS, strict=True):
        if len(cells) and cells[0] < 0:
            geometry.append(np.zeros((p, size), np.float32))
            fits.append(np.zeros((2, n, size), np.float32))
            continue
        usual = _shares(np.bincount(cells, minlength=size) + 1.0)
        usual_related = _shares(np.bincount(cells[related], minlength=size) + 1.0)
        table = np.zeros((p, size))
        np.add.at(table, (pairs.predicate[related], cells[related]), 1)
        table = _shares(table + 30 * usual_related)
        geometry.append(np.log(table / usual).astype(np.float32))
        by_label = []
        for end in (0, 1):
            any_pair = np.zeros((n, size))
            np.add.at(any_pair, (pairs.labels[end], cells), 1)
            any_pair = _shares(any_pair + BACK_OFF * usual)
            expected = _shares(usual_related / usual * any_pair)
            linked_pair = np.zeros((n, size))
            np.add.at(linked_pair, (linked[end], cells[related]), 1)
            linked_pair = _shares(linked_pair + BACK_OFF * expected)
            by_label.append(np.log(linked_pair / any_pair))
        fits.append(np.stack(by_label).astype(np.float32))
    ranks = []
    for place in pairs.places:
        usual = _shares(np.bincount(place, minlength=RANKS) + 1.0)
        ranks.append(np.log(_shares(np.bincount(place[related], minlength=RANKS) + 1.0) / usual))
    return PriorTable(
        labels,
        predicates,
        seen,
        counts,
        tuple(geometry),
        tuple(fits),
        np.stack(ranks).astype(np.float32),
        weights,
        about,
    )


def _shares(counts: npt.NDArray[np.floating]) -> Floats:
    """Scale the last axis to sum 1."""
    wide = counts.astype(np.float64)
    total: Floats = wide.sum(-1, keepdims=True)
    return wide / total


def _logistic(terms: Floats, related: Floats, steps: int = 30) -> Floats:
    """Fit weights by Newton's method with a light ridge."""
    weights = np.zeros(terms.shape[1])
    ridge = 1e-6 * len(related) * np.eye(terms.shape[1])
    for _ in range(steps):
        chance = _sigmoid(terms @ weights)
        slope = terms.T @ (related - chance) - ridge @ weights
        curve = (terms * np.maximum(chance * (1 - chance), 1e-9)[:, None]).T @ terms + ridge
        step = np.linalg.solve(curve, slope)
        weights += step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))
