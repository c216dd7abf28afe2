"""Relation predictors: their protocol, registry, and choice for a detector.

A relation is (subject row, predicate, object row) with a score in [0, 1]. No object is related to
itself; relations of equal score are ordered by subject row, then object row, so results do not
depend on the machine. Register your own predictor with ``relation_predictors.register(name)`` or as
an entry point of the group ``scenestore.relations``.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.records import Detections
from features.registry import Registry
from pipeline.vision.detection import Detector

Float = npt.NDArray[np.float32]
Relations = tuple[tuple[int, str, int], ...]


@runtime_checkable
class RelationPredictor(Protocol):
    """Interface of a relation predictor."""

    def identity(self) -> dict[str, object]:
        """Return all that its output depends on, for content keys; JSON values only."""
        ...

    def predict(self, found: Detections, limit: int) -> tuple[Relations, Float]:
        """Return at most ``limit`` relations among the objects, best first, and their scores."""
        ...


relation_predictors: Registry[RelationPredictor] = Registry(
    "relation predictor",
    "scenestore.relations",
    {
        "geometric": "pipeline.vision.predictors.geometric:Geometric",
        "precomputed": "pipeline.vision.predictors.precomputed:Precomputed",
        "prior": "pipeline.vision.predictors.prior:Prior",
        "fitted": "pipeline.vision.predictors.prior:Fitted",
    },
    RelationPredictor,
)


def create_relations(name: str = "geometric", **options: object) -> RelationPredictor:
    """Create the relation predictor called ``name``, resolved by ``resolve_relations``."""
    return relation_predictors.create(name, **options)


def resolve_relations(name: str, detector: Detector) -> str:
    """Return the predictor's name; ``auto`` stands for what suits the detector.

    That is ``precomputed`` if it provides relations, else its ``default_relations``, else
    ``geometric``.

    Raises:
        UnknownName: no predictor has this name.
        UsageError: ``precomputed`` with a detector that provides no relations.
    """
    own = "relations" in detector.provides
    if name == "auto":
        return "precomputed" if own else getattr(detector, "default_relations", "geometric")
    relation_predictors.get(name.partition(":")[0])
    if name == "precomputed" and not own:
        raise UsageError(
            "relations 'precomputed' need a detector that provides relations (grounded, "
            "scene-graphs, scene-graph-benchmark, visual-genome). Choose --relations geometric."
        )
    return name


def rank_relations(
    pairs: npt.NDArray[np.int64], predicates: list[str], scores: Float, limit: int
) -> tuple[Relations, Float]:
    """Sort relations by score, then by rows, and keep the first ``limit``.

    Args:
        pairs: (m, 2) subject and object row.   predicates: m names.   scores: (m,).
        limit: relations kept.
    """
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -scores))[:limit]
    chosen = tuple((int(pairs[i, 0]), predicates[i], int(pairs[i, 1])) for i in order)
    return chosen, scores[order].astype(np.float32)
