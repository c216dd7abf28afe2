"""Box arithmetic in numpy: areas, overlaps, non-maximum suppression. Boxes are xyxy pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["areas", "clip_boxes", "intersections", "iou_matrix", "nms"]

Float = npt.NDArray[np.float32]

BATCH = 128  # boxes of small classes that share one overlap matrix


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
    shared: Float = np.minimum(a[:, 2, None], b[None, :, 2])
    shared -= np.maximum(a[:, 0, None], b[None, :, 0])
    height = np.minimum(a[:, 3, None], b[None, :, 3])
    height -= np.maximum(a[:, 1, None], b[None, :, 1])
    shared *= np.maximum(height, 0, out=height)
    # A negative width times a height is below zero too.
    return np.maximum(shared, 0, out=shared)


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
    order: npt.NDArray[np.int64] = np.argsort(-scores, kind="stable")
    ordered = boxes[order]
    if classes is None:
        return order[_survivors(ordered, threshold, None)][:limit]
    kinds = classes[order]
    alive = np.zeros(len(order), dtype=bool)
    for rows in _batches(kinds):
        alive[rows] = _survivors(ordered[rows], threshold, kinds[rows])
    return order[alive][:limit]


def _batches(kinds: npt.NDArray[np.integer]) -> list[npt.NDArray[np.int64]]:
    """Split rows so that each class is whole: large ones alone, small ones together.

    One matrix for all would be mostly pairs of different classes; one per class mostly overhead.
    """
    by_class = np.argsort(kinds, kind="stable")
    groups = np.split(by_class, np.flatnonzero(np.diff(kinds[by_class])) + 1)
    batches: list[list[npt.NDArray[np.int64]]] = [[]]
    filled = 0
    for group in sorted(groups, key=len):
        if filled and filled + len(group) > BATCH:
            batches.append([])
            filled = 0
        batches[-1].append(group)
        filled += len(group)
    return [np.sort(np.concatenate(parts)) for parts in batches]


def _survivors(
    boxes: Float, threshold: float, kinds: npt.NDArray[np.integer] | None
) -> npt.NDArray[np.bool_]:
    """Say which boxes stay, (n,); they come best first."""
    area = areas(boxes)
    shared = intersections(boxes, boxes)
    union = area[:, None] + area[None, :]
    union -= shared
    union *= threshold
    beats = shared > union
    if kinds is not None:
        beats &= kinds[:, None] == kinds[None, :]
    beats = np.triu(beats, 1)
    alive = np.ones(len(boxes), dtype=bool)
    for row in np.flatnonzero(beats.any(1)):  # most boxes beat nobody
        if alive[row]:
            alive &= ~beats[row]
    return alive
