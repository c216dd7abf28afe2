"""Predicates between objects: the protocol, the registry, and predictors that need no training.

A relation is (subject row, predicate, object row) with a score in [0, 1]. Nothing relates to
itself, and equal scores are ordered by subject row, then object row, so results never depend on
the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format.keys import hash_file
from features.records import Detections
from features.registry import Registry
from pipeline.vision.boxes import areas, intersections

if TYPE_CHECKING:
    from pipeline.detect import Detector
    from pipeline.vision.prior import PriorTable

__all__ = [
    "PREDICATES",
    "Geometric",
    "Precomputed",
    "Prior",
    "RelationPredictor",
    "create_relations",
    "rank_relations",
    "relation_predictors",
    "relations_identity",
    "resolve_relations",
]

Float = npt.NDArray[np.float32]
Relations = tuple[tuple[int, str, int], ...]

PACKAGED = Path(__file__).parent / "data" / "predicate-prior.npz"
PREDICATES = (
    "inside",
    "on",
    "above",
    "below",
    "next to",
    "in front of",
    "behind",
    "overlapping",
)


@runtime_checkable
class RelationPredictor(Protocol):
    """What every relation predictor offers."""

    def identity(self) -> dict[str, object]:
        """Return what its output depends on, for the content key; JSON values only."""
        ...

    def predict(self, found: Detections, limit: int) -> tuple[Relations, Float]:
        """Return at most ``limit`` relations among the objects, best first, and their scores."""
        ...


relation_predictors: Registry[RelationPredictor] = Registry(
    "relation predictor", "scenestore.relations"
)


def resolve_relations(name: str, detector: Detector) -> str:
    """Return the predictor's name: ``auto`` takes the detector's own relations if it has any.

    Raises:
        UnknownName: nobody registered this name.
        UsageError: ``precomputed`` with a detector that brings no relations.
    """
    own = "relations" in detector.brings
    if name == "auto":
        return "precomputed" if own else "geometric"
    relation_predictors.get(name.partition(":")[0])
    if name == "precomputed" and not own:
        raise UsageError(
            "relations 'precomputed' need a detector that brings relations (scene-graphs, "
            "scene-graph-benchmark, visual-genome). Choose --relations geometric."
        )
    return name


def create_relations(name: str = "geometric", **options: object) -> RelationPredictor:
    """Build a relation predictor by its resolved name."""
    return relation_predictors.create(name, **options)


def relations_identity(name: str) -> dict[str, object]:
    """Return what the output of a predictor with default options depends on, for the key."""
    return create_relations(name).identity()


def rank_relations(
    pairs: npt.NDArray[np.int64], predicates: list[str], scores: Float, limit: int
) -> tuple[Relations, Float]:
    """Order relations by score, then by rows, and keep the first ``limit``.

    Args:
        pairs: (m, 2) subject and object row.   predicates: m names.   scores: (m,).
        limit: relations kept.
    """
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -scores))[:limit]
    chosen = tuple((int(pairs[i, 0]), predicates[i], int(pairs[i, 1])) for i in order)
    return chosen, scores[order].astype(np.float32)


@relation_predictors.register("precomputed")
class Precomputed:
    """The relations that the detector brought, best first; file order where it gave no scores."""

    def identity(self) -> dict[str, object]:
        """Return name and version."""
        return {"name": "precomputed", "version": 1}

    def predict(self, found: Detections, limit: int) -> tuple[Relations, Float]:
        """Return the first ``limit`` relations; self relations and repetitions are left out."""
        scores = found.relation_scores
        kept: list[int] = []
        seen: set[tuple[int, str, int]] = set()
        for at, relation in enumerate(found.relations or ()):
            if relation[0] != relation[2] and relation not in seen:
                seen.add(relation)
                kept.append(at)
        kept = kept[:limit]
        relations = tuple((found.relations or ())[at] for at in kept)
        marks = np.ones(len(kept), np.float32) if scores is None else scores[kept]
        return relations, marks.astype(np.float32)


@relation_predictors.register("geometric")
class Geometric:
    """Predicates from box geometry alone: the likeliest one of each pair, in one direction.

    Args:
        min_score: relations below are dropped.
    """

    def __init__(self, min_score: float = 0.05) -> None:
        if not 0 <= min_score <= 1:
            raise UsageError(f"geometric: min_score {min_score} is not in [0, 1].")
        self.min_score = min_score

    def identity(self) -> dict[str, object]:
        """Return name, version and threshold."""
        return {"name": "geometric", "version": 1, "min_score": self.min_score}

    def predict(self, found: Detections, limit: int) -> tuple[Relations, Float]:
        """Return the best relations: the fit of the predicate times the objects' scores."""
        n = len(found.labels)
        if n < 2:
            return (), np.zeros(0, np.float32)
        fits = predicate_fits(found.boxes)  # (P, n, n)
        best = fits.argmax(0)
        trust = np.sqrt(np.outer(found.scores, found.scores))
        scores = fits.max(0) * trust
        np.fill_diagonal(scores, -1)
        # Of the two directions of a pair the better fit stands; the first row wins a tie.
        upper = np.triu(scores >= scores.T, 1)
        chosen = np.argwhere((upper | np.triu(~upper, 1).T) & (scores >= self.min_score))
        names = [PREDICATES[best[s, o]] for s, o in chosen]
        values = scores[chosen[:, 0], chosen[:, 1]]
        return rank_relations(chosen, names, np.clip(values, 0, 1).astype(np.float32), limit)


def predicate_fits(boxes: Float) -> Float:
    """Say how well each predicate describes each ordered pair of boxes.

    Args:
        boxes: (n, 4) xyxy.

    Returns:
        (len(PREDICATES), n, n) in [0, 1], axis 1 the subject, axis 2 the object.
    """
    area = np.maximum(areas(boxes), 1e-6)
    shared = intersections(boxes, boxes)
    within = shared / area[:, None]  # share of the subject that lies in the object
    smaller = np.clip(1 - area[:, None] / area[None, :], 0, 1)
    overlap = shared / (area[:, None] + area[None, :] - shared)
    left, top, right, bottom = (boxes[:, i] for i in range(4))
    width, height = np.maximum(right - left, 1e-3), np.maximum(bottom - top, 1e-3)
    across = _overlap(left, right) / np.minimum(width[:, None], width[None, :])
    along = _overlap(top, bottom) / np.minimum(height[:, None], height[None, :])
    tall = (height[:, None] + height[None, :]) / 2
    wide = (width[:, None] + width[None, :]) / 2
    drop = (top[None, :] - bottom[:, None]) / tall  # > 0: a gap between subject and object below
    centre_y = (top + bottom) / 2
    higher = np.clip((centre_y[None, :] - centre_y[:, None]) / tall, 0, 1)
    # Standing on something: the feet lie between its top and its middle.
    feet = (bottom[:, None] - top[None, :]) / height[None, :]
    contact = np.exp(-(((feet - 0.25) / 0.3) ** 2))
    above = across * higher * np.exp(-np.clip(drop, 0, None) / 2) * (1 - overlap)
    gap = np.maximum(left[None, :] - right[:, None], left[:, None] - right[None, :]) / wide
    beside = along * np.exp(-(np.clip(gap, 0, None) ** 2)) * (1 - np.clip(within + within.T, 0, 1))
    nearer = np.clip((bottom[:, None] - bottom[None, :]) / tall, 0, 0.5) * 2  # lower = nearer
    front = np.sqrt(np.clip(np.maximum(within, within.T), 0, 1)) * nearer
    inside = within * smaller
    on = across * higher * contact
    fits = [
        0.9 * inside,
        on,
        0.6 * above,
        0.6 * above.T,
        0.7 * beside,
        0.8 * front,
        0.8 * front.T,
        0.7 * overlap,
    ]
    return np.stack(fits).astype(np.float32)


def _overlap(low: Float, high: Float) -> Float:
    """Return the length that each pair of intervals shares, (n, n)."""
    both: Float = np.minimum(high[:, None], high[None, :]) - np.maximum(low[:, None], low[None, :])
    return np.maximum(both, 0)


@relation_predictors.register("prior")
class Prior:
    """Predicates by P(predicate | labels, geometry), fitted on graphs: ``fit-relations``.

    The score is the probability that the pair is related in this way, times the objects' scores.

    Args:
        table: file written by ``fit-relations``; None takes the packaged one, 50 predicates of
            Visual Genome (pipeline/vision/data/predicate-prior.md says what it was made from).
        min_score: relations below are dropped.
    """

    def __init__(self, table: str | None = None, min_score: float = 0.0) -> None:
        self.path = PACKAGED if table is None else Path(table)
        self.min_score = min_score

    @cached_property
    def table(self) -> PriorTable:
        """The fitted table, loaded at first use."""
        from pipeline.vision.prior import PriorTable

        return PriorTable.load(self.path)

    def identity(self) -> dict[str, object]:
        """Return name, version, the table's hash and the threshold."""
        return {
            "name": "prior",
            "version": 1,
            "table": hash_file(self.path),
            "min_score": self.min_score,
        }

    def predict(self, found: Detections, limit: int) -> tuple[Relations, Float]:
        """Return the likeliest relations, one predicate per ordered pair."""
        pairs, best, chance = self.table.judge(found)
        scores = chance * found.scores[pairs[:, 0]] * found.scores[pairs[:, 1]]
        keep = scores >= self.min_score
        names = [self.table.predicates[code] for code in best[keep]]
        return rank_relations(pairs[keep], names, scores[keep].astype(np.float32), limit)

    def classify(self, found: Detections, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return the likeliest predicate of each given pair."""
        known, best, _ = self.table.judge(found)
        code = {(int(s), int(o)): int(p) for (s, o), p in zip(known, best, strict=True)}
        return [self.table.predicates[code[s, o]] for s, o in pairs]
