"""Box arithmetic in numpy: areas, overlaps, non-maximum suppression. Boxes are xyxy pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["areas", "clip_boxes", "intersections", "iou_matrix", "nms"]

Float = npt.NDArray[np.float32]


def areas(boxes: Float) -> Float:
    """Return the area of each box, (n,) square pixels."""
    sides: Float = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def clip_boxes(boxes: Float, size: tuple[int, int]) -> Float:
    """Cut boxes at the border of a picture of ``size`` (width, height)."""
    width, height = size
    clipped: Float = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return clipped


def intersections(a: Float, b: Float) -> Float:
    """Return the area that each box of ``a`` (n, 4) shares with each of ``b`` (m, 4): (n, m)."""
    # One axis at a time: long rows of one kind of number are what numpy is fast at.
    width = np.minimum(a[:, 2, None], b[None, :, 2]) - np.maximum(a[:, 0, None], b[None, :, 0])
    height = np.minimum(a[:, 3, None], b[None, :, 3]) - np.maximum(a[:, 1, None], b[None, :, 1])
    shared: Float = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def iou_matrix(a: Float, b: Float) -> Float:
    """Return intersection over union of each pair, (n, m) in [0, 1]; 0 for two empty boxes.

    >>> box = np.array([[0, 0, 2, 2]], np.float32)
    >>> round(float(iou_matrix(box, box + [[1, 0, 1, 0]])[0, 0]), 4)  # 2 shared of 6
    0.3333
    """
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - shared
    ratio: Float = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def nms(
    boxes: Float,
    scores: Float,
    threshold: float,
    *,
    classes: npt.NDArray[np.integer] | None = None,
    limit: int | None = None,
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (n, 4).   scores: (n,); equal scores keep the order of the rows.
        threshold: a box goes when its IoU with a better one that stays is larger than this.
        classes: (n,) ints; boxes of different classes do not suppress each other. None: all do.
        limit: stop when so many boxes stay.

    Returns:
        rows that stay, best first.
    """
    if classes is not None:
        groups = [np.flatnonzero(classes == kind) for kind in np.unique(classes)]
        stay = [group[nms(boxes[group], scores[group], threshold)] for group in groups]
        rows = np.sort(np.concatenate([np.zeros(0, np.int64), *stay]))
        return rows[np.argsort(-scores[rows], kind="stable")][:limit]
    order = np.argsort(-scores, kind="stable")
    ordered = boxes[order]
    area = areas(ordered)
    shared = intersections(ordered, ordered)
    beats = shared > threshold * (area[:, None] + area[None, :] - shared)
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for row in range(len(order)):
        if alive[row]:
            kept.append(row)
            if limit is not None and len(kept) >= limit:
                break
            alive &= ~beats[row]
    return order[kept]
