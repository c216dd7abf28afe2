"""Relations from box geometry alone: inside, on, above, below, next to, in front of, behind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.records import Detections
from pipeline.vision.boxes import areas, intersections
from pipeline.vision.relations import Relations, rank_relations

Float = npt.NDArray[np.float32]

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


class Geometric:
    """Predicates from box geometry alone: the best one for each pair, in one direction.

    Args:
        min_score: relations with a lower score are dropped.
    """

    def __init__(self, min_score: float = 0.05) -> None:
        if not 0 <= min_score <= 1:
            raise UsageError(f"geometric: min_score {min_score} is not in [0, 1].")
        self.min_score = min_score

    def identity(self) -> dict[str, object]:
        """Return name, version and threshold."""
        return {"name": "geometric", "version": 1, "min_score": self.min_score}

    def predict(self, found: Detections, limit: int) -> tuple[Relations, Float]:
        """Return the best relations; a score is the predicate's fit times the mean object score.

        The mean is the geometric one of both objects.
        """
        n = len(found.labels)
        if n < 2:
            return (), np.zeros(0, np.float32)
        fits = predicate_fits(found.boxes)  # (P, n, n)
        best = fits.argmax(0)
        scores = fits.max(0) * np.sqrt(np.outer(found.scores, found.scores))
        np.fill_diagonal(scores, -1)
        # Keep the better direction of each pair; on a tie the one from the first row.
        upper = np.triu(scores >= scores.T, 1)
        chosen = np.argwhere((upper | np.triu(~upper, 1).T) & (scores >= self.min_score))
        names = [PREDICATES[best[s, o]] for s, o in chosen]
        values = scores[chosen[:, 0], chosen[:, 1]]
        return rank_relations(chosen, names, np.clip(values, 0, 1).astype(np.float32), limit)


def predicate_fits(boxes: Float) -> Float:
    """Return how well each predicate describes each ordered pair of boxes.

    Args:
        boxes: (n, 4) xyxy.

    Returns:
        (len(PREDICATES), n, n) in [0, 1], axis 1 the subject, axis 2 the object.
    """
    area = np.maximum(areas(boxes), 1e-6)
    shared = intersections(boxes, boxes)
    within = shared / area[:, None]  # share of the subject inside the object
    smaller = np.clip(1 - area[:, None] / area[None, :], 0, 1)
    overlap = shared / (area[:, None] + area[None, :] - shared)
    left, top, right, bottom = (boxes[:, i] for i in range(4))
    width, height = np.maximum(right - left, 1e-3), np.maximum(bottom - top, 1e-3)
    across = _overlap(left, right) / np.minimum(width[:, None], width[None, :])
    along = _overlap(top, bottom) / np.minimum(height[:, None], height[None, :])
    tall = (height[:, None] + height[None, :]) / 2
    wide = (width[:, None] + width[None, :]) / 2
    drop = (top[None, :] - bottom[:, None]) / tall  # > 0: the object is below, with a gap
    centre_y = (top + bottom) / 2
    higher = np.clip((centre_y[None, :] - centre_y[:, None]) / tall, 0, 1)
    # Standing on an object: the subject's bottom is between the object's top and middle.
    feet = (bottom[:, None] - top[None, :]) / height[None, :]
    contact = np.exp(-(((feet - 0.25) / 0.3) ** 2))
    above = across * higher * np.exp(-np.clip(drop, 0, None) / 2) * (1 - overlap)
    gap = np.maximum(left[None, :] - right[:, None], left[:, None] - right[None, :]) / wide
    beside = along * np.exp(-(np.clip(gap, 0, None) ** 2)) * (1 - np.clip(within + within.T, 0, 1))
    nearer = np.clip((bottom[:, None] - bottom[None, :]) / tall, 0, 0.5) * 2  # lower means nearer
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
