"""Predicates by P(predicate | subject label, object label, geometry), and the fit of this table.

The frequency baseline of Neural Motifs, extended by geometry and by the ranks of the objects in
the detector's order. The log-linear weights are fitted on images that were not counted, so the
scores are probabilities.

``P(p | a, b)`` for an ordered pair of labels is the relative frequency among all pairs of objects,
related or not, backed off to ``P(p | a) P(p | b) / P(p)`` with the weight of 20 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format import hash_file, replacing
from features.npz_files import check_array, check_names, open_npz
from features.records import Detections
from pipeline.vision.boxes import areas, intersections, iou_matrix
from pipeline.vision.relations import Relations, rank_relations

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PACKAGED = Path(__file__).parents[1] / "data" / "predicate-prior.npz"
OF_CAPTIONS = PACKAGED.with_name("caption-predicates.npz")
SAME_OBJECT = 0.85  # IoU above which two boxes are one object
SAME_REGION = 0.95  # IoU above which two labels are of one region
BACK_OFF = 20.0  # weight of the back-off distribution, in pairs
# Bin edges of the geometry of an ordered pair of boxes.
SHARES = (1e-4, 0.2, 0.5, 0.8, 0.95)  # share of one box inside the other
DROPS = (-1.0, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 1.0)  # object below subject, in subject heights
SIDES = (0.1, 0.2, 0.35, 0.5, 1.0)  # object beside subject, in subject widths
LOG_SIZES = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)  # log(object area / subject area)
OVERLAPS = (1e-4, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # IoU
CELLS = (36, 54, 80)  # cells of containment; of position; of size and overlap
CHOICE = (0.5, 0.5, 0.3)  # weight of each geometry in the choice of the predicate
# Score of ``fitted`` from which displays show a relation: on Flickr8k's validation photos, captions
# relate the two objects of 62 % of those above it.
RELATIONS_SHOWN = 0.07
RANKS = 36  # ranks in the detector's order with a weight of their own
TERMS = 15  # terms of the log-linear model, including the constant


class LabelGraph(NamedTuple):
    """Training data from one image or caption: labels, relations, and boxes of images."""

    labels: Sequence[str]
    relations: Sequence[tuple[int, str, int]]
    boxes: npt.NDArray[np.float32] | None = None


def geometry_cells(boxes: npt.NDArray[np.float32]) -> Ints:
    """Return the geometry cells of every ordered pair of boxes, (3, n, n) int64."""
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
    """All m ordered pairs of objects of some images."""

    image: Ints
    ranks: Ints  # (2, m) rows of subject and object, at most RANKS - 1
    labels: Ints  # (2, m) label ids
    predicate: Ints  # (m,) predicate id; the number of predicates for unrelated pairs
    cells: Ints  # (3, m) geometry cells, -1 without boxes


@dataclass(frozen=True, eq=False)
class PriorTable:
    """The fitted counts and weights.

    Attributes:
        labels, predicates: names along the axes; unknown labels back off.
        pairs: (L, L) number of ordered pairs.   counts: (L, L, P) pairs with each predicate.
        geometry: three (P, cells) log ratios of the geometry of related pairs to all pairs.
        fit: three (2, L, cells) log ratios, related to all, by subject or object label.
        ranks: (2, RANKS) log ratios by rank in the detector's order.
        weights: (TERMS,) weights of the log-linear model.
        about: description of the training data.
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
        """Return log P(p | a, b), (L + 1, L + 1, P); the last row is for unknown labels."""
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
        """Return the row of each label; unknown labels are looked up by their last word."""
        row = self._row
        unknown = len(row)
        return np.array(
            [row.get(name, row.get(name.split(" ")[-1], unknown)) for name in labels], np.int64
        )

    def score(self, pairs: _Pairs) -> tuple[Ints, Floats]:
        """Return the best predicate of each pair (m,) and the terms of its log-odds (m, TERMS)."""
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
            terms[:, 10] = self.ranks[0][pairs.ranks[0]]
            terms[:, 11] = self.ranks[1][pairs.ranks[1]]
            terms[:, 12] = pairs.cells[2] % 8 > 0  # the boxes touch
        terms[:, 13] = pairs.labels[0] == pairs.labels[1]
        terms[:, 14] = 1
        return best, terms

    def best_predicates(self, found: Detections) -> tuple[Ints, Ints, Floats]:
        """Return all ordered pairs (m, 2), the best predicate of each and its probability."""
        pairs = _collect([LabelGraph(found.labels, (), found.boxes)], self.label_rows, {})
        if not len(pairs.image):
            return np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0)
        best, terms = self.score(pairs)
        n = len(found.labels)
        return np.argwhere(~np.eye(n, dtype=bool)), best, _sigmoid(terms @ self.weights)

    def save(self, path: Path | str) -> None:
        """Write the table as npz. Raises: WriteError."""
        where = np.argwhere(self.counts > 0).astype(np.int16)
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
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
        """Read a table written by ``save``.

        Raises: InputError: not such a table. MissingInput: no such file.
        """
        with open_npz(path, "a table written by fit-relations", "Fit it again.") as data:
            labels, predicates = data["labels"].tolist(), data["predicates"].tolist()
            n, m = len(labels), len(predicates)
            counts = np.zeros((n, n, m), np.float32)
            counted = data["counted"]
            if counted.ndim != 2 or counted.shape[1] != 3 or (counted < 0).any():
                raise ValueError("'counted' is not a list of labels and predicates")
            counts[tuple(counted.T.astype(np.int64))] = data["counts"]
            table = cls(
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
            check_names("labels", table.labels)
            check_names("predicates", table.predicates)
            check_array("pairs", table.pairs, (n, n))
            check_array("counts", counts, (n, n, m))
            check_array("ranks", table.ranks, (2, RANKS))
            check_array("weights", table.weights, (TERMS,))
            for at, cells in enumerate(CELLS):
                check_array(f"geometry{at}", table.geometry[at], (m, cells))
                check_array(f"fit{at}", table.fit[at], (2, n, cells))
            return table


class Prior:
    """Predicates by P(predicate | labels, geometry), from a fitted table.

    A score is the probability that the pair is related by this predicate, times both object scores.

    Args:
        table: file written by ``fit-relations``; None: the packaged table, 50 predicates of Visual
            Genome (its origin is described in pipeline/vision/data/predicate-prior.md).
        min_score: relations with a lower score are dropped.
    """

    def __init__(self, table: str | None = None, min_score: float = 0.0) -> None:
        self.path = PACKAGED if table is None else Path(table)
        self.min_score = min_score

    @cached_property
    def table(self) -> PriorTable:
        """The fitted table, loaded on first use."""
        return PriorTable.load(self.path)

    def identity(self) -> dict[str, object]:
        """Return name, version, the hash of the table and the threshold."""
        return {
            "name": "prior",
            "version": 1,
            "table": hash_file(self.path),
            "min_score": self.min_score,
        }

    def predict(self, found: Detections, limit: int) -> tuple[Relations, npt.NDArray[np.float32]]:
        """Return the likeliest relations, at most one predicate per ordered pair."""
        pairs, best, chance = self.table.best_predicates(found)
        scores = chance * found.scores[pairs[:, 0]] * found.scores[pairs[:, 1]]
        keep = scores >= self.min_score
        names = [self.table.predicates[code] for code in best[keep]]
        return rank_relations(pairs[keep], names, scores[keep].astype(np.float32), limit)

    def classify(self, found: Detections, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return the likeliest predicate of each of the given pairs."""
        known, best, _ = self.table.best_predicates(found)
        code = {(int(s), int(o)): int(p) for (s, o), p in zip(known, best, strict=True)}
        return [self.table.predicates[code[s, o]] for s, o in pairs]


class Fitted(Prior):
    """Predicates of captions, fitted on grounded graphs; at most one relation per pair of objects.

    Boxes that overlap almost wholly are two names of one object and are not related. Of several
    labels of one region, only the most probable has relations.

    Args:
        table: file written by ``fit-relations --entities``; None: the packaged table (its origin is
            described in pipeline/vision/data/caption-predicates.md).
        min_score: relations with a lower score are dropped.
    """

    def __init__(self, table: str | None = None, min_score: float = 0.005) -> None:
        super().__init__(table, min_score)
        self.path = OF_CAPTIONS if table is None else Path(table)
        self.shown = RELATIONS_SHOWN

    def identity(self) -> dict[str, object]:
        """Return name, version, the hash of the table and the threshold."""
        return {**super().identity(), "name": "fitted", "version": 2, "shown": self.shown}

    def predict(self, found: Detections, limit: int) -> tuple[Relations, npt.NDArray[np.float32]]:
        """Return the likeliest relations, one direction and one predicate per pair."""
        n = len(found.labels)
        pairs, best, chance = self.table.best_predicates(found)
        scores = np.zeros((n, n))
        scores[pairs[:, 0], pairs[:, 1]] = (
            chance * found.scores[pairs[:, 0]] * found.scores[pairs[:, 1]]
        )
        overlaps = iou_matrix(found.boxes, found.boxes)
        scores[overlaps > SAME_OBJECT] = 0
        better = found.scores[None, :] > found.scores[:, None]
        alias = ((overlaps > SAME_REGION) & better).any(1)
        scores[alias], scores[:, alias] = 0, 0
        first = (scores > scores.T) | ((scores == scores.T) & np.triu(np.ones((n, n), bool)))
        values = np.where(first, scores, 0)[pairs[:, 0], pairs[:, 1]]
        keep = (values > 0) & (values >= self.min_score)
        names = [self.table.predicates[code] for code in best[keep]]
        return rank_relations(pairs[keep], names, values[keep].astype(np.float32), limit)


def fit_prior(
    graphs: Iterable[LabelGraph],
    about: str = "",
    predicates: Iterable[str] = (),
    *,
    exact: bool = False,
) -> PriorTable:
    """Count all graphs, and fit the weights by cross-fitting over two halves.

    Args:
        graphs: one per image or caption, with relations; boxes in all of them or in none.
        about: description of the graphs, kept in the table.
        predicates: further predicates of the table, beside those of the graphs.
        exact: scores are the probability that the likeliest predicate is right, instead of that the
            pair is related; they differ where many predicates fit a pair.

    Raises: UsageError: fewer than two graphs have a relation, or only some have boxes.
    """
    usable = [graph for graph in graphs if len(graph.labels) > 1]
    if sum(bool(graph.relations) for graph in usable) < 2:
        raise UsageError("fitting predicates needs at least two graphs with relations.")
    if len({graph.boxes is None for graph in usable}) > 1:
        raise UsageError("only some graphs have boxes. Fit graphs with and without boxes apart.")
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
    scored = [tables[1 - half].score(halves[half]) for half in (0, 1)]
    right = [
        half.predicate == best if exact else half.predicate < len(known)
        for half, (best, _) in zip(halves, scored, strict=True)
    ]
    terms = np.concatenate([terms for _, terms in scored])
    weights = _logistic(terms, np.concatenate(right).astype(np.float64))
    both = _Pairs(*(np.concatenate(parts, axis=-1) for parts in zip(*halves, strict=True)))
    return _count(both, labels, known, weights.astype(np.float32), about)


def _collect(
    graphs: Sequence[LabelGraph], rows: Callable[[Iterable[str]], Ints], code: dict[str, int]
) -> _Pairs:
    """Return all pairs of the objects of each graph; ``code`` numbers the predicates."""
    parts = []
    for at, graph in enumerate(graphs):
        n = len(graph.labels)
        ids = rows(graph.labels)
        subject, target = np.nonzero(~np.eye(n, dtype=bool))
        predicate = np.full((n, n), len(code), np.int64)
        for s, name, o in reversed(graph.relations):  # the first of several predicates counts
            predicate[s, o] = code[name]
        cells = np.full((3, n, n), -1) if graph.boxes is None else geometry_cells(graph.boxes)
        ranks = np.minimum(np.stack([subject, target]), RANKS - 1)
        parts.append(
            _Pairs(
                np.full(len(subject), at),
                ranks,
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
    """Count pairs."""
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
    for rank in pairs.ranks:
        usual = _shares(np.bincount(rank, minlength=RANKS) + 1.0)
        ranks.append(np.log(_shares(np.bincount(rank[related], minlength=RANKS) + 1.0) / usual))
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
    """Scale the last axis to a sum of 1."""
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
