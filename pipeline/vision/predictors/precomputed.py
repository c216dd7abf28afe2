"""The relations that a detector provides, for example from a scene graph file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.records import Detections
from pipeline.vision.relations import Relations


class Precomputed:
    """The detector's own relations in their order, which is best first."""

    def identity(self) -> dict[str, object]:
        """Return name and version."""
        return {"name": "precomputed", "version": 1}

    def predict(self, found: Detections, limit: int) -> tuple[Relations, npt.NDArray[np.float32]]:
        """Return the first ``limit`` relations, without self relations and repetitions.

        The scores are 1 where the detector has none.
        """
        known = found.relation_scores
        rows: dict[tuple[int, str, int], int] = {}
        for row, relation in enumerate(found.relations or ()):
            if relation[0] != relation[2]:
                rows.setdefault(relation, row)
        relations = tuple(rows)[:limit]
        kept = list(rows.values())[:limit]
        scores = np.ones(len(kept), np.float32) if known is None else known[kept]
        return relations, scores.astype(np.float32)
