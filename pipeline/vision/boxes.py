"""Box arithmetic in numpy: areas, overlaps, non-maximum suppression. Boxes are xyxy in pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

BATCH = 128  # boxes of small classes that share one overlap matrix


def areas(boxes: Float) -> Float:
    """Return the area of each box, (n,), in square pixels."""
    sides: Float = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def clip_boxes(boxes: Float, size: tuple[int, int]) -> Float:
    """Clip boxes to an image of ``size`` (width, height)."""
    width, height = size
    clipped: Float = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return clipped


def intersections(a: Float, b: Float) -> Float:
    """Return the shared area of each box of ``a`` (n, 4) with each of ``b`` (m, 4): (n, m)."""
    # One coordinate at a time: numpy is fastest on long contiguous rows.
    shared: Float = np.minimum(a[:, 2, None], b[None, :, 2])
    shared -= np.maximum(a[:, 0, None], b[None, :, 0])
    height = np.minimum(a[:, 3, None], b[None, :, 3])
    height -= np.maximum(a[:, 1, None], b[None, :, 1])
    shared *= np.maximum(height, 0, out=height)
    # A negative width times a height is negative too.
    return np.maximum(shared, 0, out=shared)


def iou_matrix(a: Float, b: Float) -> Float:
    """Return the intersection over union of each pair, (n, m) in [0, 1]; 0 for two empty boxes.

    >>> box = np.array([[0, 0, 2, 2]], np.float32)
    >>> round(float(iou_matrix(box, box + [[1, 0, 1, 0]])[0, 0]), 4)  # 2 of 6 square pixels
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
        boxes: (n, 4).   scores: (n,); boxes of equal score keep their order.
        threshold: a box is dropped when its IoU with a better one that is kept exceeds this.
        classes: (n,) ints; only boxes of the same class suppress each other. None: all do.
        limit: boxes kept at most.

    Returns:
        Rows of the boxes that are kept, best first.
    """
    order: npt.NDArray[np.int64] = np.argsort(-scores, kind="stable")
    ordered = boxes[order]
    if classes is None:
        return order[_survivors(ordered, threshold, None)][:limit]
    classes = classes[order]
    alive = np.zeros(len(order), dtype=bool)
    for rows in _batches(classes):
        alive[rows] = _survivors(ordered[rows], threshold, classes[rows])
    return order[alive][:limit]


def _batches(classes: npt.NDArray[np.integer]) -> list[npt.NDArray[np.int64]]:
    """Split rows so that each class stays whole: large classes alone, small ones together.

    A single overlap matrix would consist mostly of pairs of different classes; one matrix per class
    has too much overhead.
    """
    by_class = np.argsort(classes, kind="stable")
    groups = np.split(by_class, np.flatnonzero(np.diff(classes[by_class])) + 1)
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
    boxes: Float, threshold: float, classes: npt.NDArray[np.integer] | None
) -> npt.NDArray[np.bool_]:
    """Return which boxes are kept, (n,) bool; the boxes are sorted, best first."""
    area = areas(boxes)
    shared = intersections(boxes, boxes)
    union = area[:, None] + area[None, :]
    union -= shared
    union *= threshold
    beats = shared > union
    if classes is not None:
        beats &= classes[:, None] == classes[None, :]
    beats = np.triu(beats, 1)
    alive = np.ones(len(boxes), dtype=bool)
    for row in np.flatnonzero(beats.any(1)):  # most boxes suppress no other
        if alive[row]:
            alive &= ~beats[row]
    return alive
