"""A relation predictor plug-in: every object is related to the nearest other one."""

from __future__ import annotations

import numpy as np

import workflows  # noqa: F401  (for: luigi --module own_relations BuildDataset)
from pipeline.vision import relation_predictors


@relation_predictors.register("nearest")
class Nearest:
    """``near`` between each object and the one whose centre is closest."""

    def identity(self):
        return {"name": "nearest", "version": 1}  # everything its output depends on

    def predict(self, found, limit):
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2  # boxes are xyxy pixels
        if len(centres) < 2:
            return (), np.zeros(0, np.float32)
        gaps = np.linalg.norm(centres[:, None] - centres, axis=2) / np.hypot(*found.size)
        np.fill_diagonal(gaps, np.inf)
        order = np.argsort(gaps.min(1), kind="stable")[:limit]  # best first
        relations = tuple((int(row), "near", int(gaps[row].argmin())) for row in order)
        return relations, np.exp(-gaps.min(1)[order]).astype(np.float32)
