"""Where arrows between boxes begin and end, spread so that they do not meet in one point."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Point = tuple[float, float]
MARGIN = 0.15  # of a side, at both of its ends, is kept free of lone arrows
NARROW = 0.1  # of the outer box: smaller gaps have no room for an arrow


def end_points(
    boxes: npt.NDArray[np.float32], pairs: Sequence[tuple[int, int]]
) -> list[tuple[Point, Point]]:
    """Return the first and last point of an arrow for each pair of boxes.

    An arrow begins and ends on the side of a box that faces the other box. Arrows at the same side
    are spread along it, in the order of the boxes that they lead to. An arrow between a box and one
    around it crosses the widest gap between the two where it does not end in a third one.

    Args:
        boxes: (n, 4) xyxy pixels.   pairs: rows of the boxes to connect.
    """
    sides: dict[tuple[int, str], list[tuple[float, int, int]]] = defaultdict(list)
    found: list[list[Point]] = [[(0.0, 0.0), (0.0, 0.0)] for _ in pairs]
    for at, pair in enumerate(pairs):
        both = _box(boxes[pair[0]]), _box(boxes[pair[1]])
        outer = next((end for end in (0, 1) if _contains(both[end], both[1 - end])), None)
        if outer is None:
            for end in (0, 1):
                side, along = _facing(both[end], both[1 - end])
                sides[pair[end], side].append((along, at, end))
        else:
            others = [_box(boxes[row]) for row in {*itertools.chain(*pairs)} - {*pair}]
            side, found[at][outer] = _into_gap(both[1 - outer], both[outer], others)
            sides[pair[1 - outer], side].append((0.5, at, 1 - outer))
    for (row, side), arrows in sides.items():
        for number, (along, at, end) in enumerate(sorted(arrows), 1):
            share = number / (len(arrows) + 1) if len(arrows) > 1 else along
            found[at][end] = _place(_box(boxes[row]), side, share)
    return [(first, last) for first, last in found]


def _box(row: npt.NDArray[np.float32]) -> Box:
    x1, y1, x2, y2 = map(float, row)
    return x1, y1, x2, y2


def _middle(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _contains(box: Box, other: Box) -> bool:
    """Return True if a box is larger than another one and contains its middle."""
    x, y = _middle(other)
    larger = (box[2] - box[0]) * (box[3] - box[1]) >= (other[2] - other[0]) * (other[3] - other[1])
    return larger and box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _facing(box: Box, other: Box) -> tuple[str, float]:
    """Return the side of a box that faces another one, and where on it, from 0 to 1."""
    (x, y), (other_x, other_y) = _middle(box), _middle(other)
    to_x = (other_x - x) / max(box[2] - box[0], 1e-6)
    to_y = (other_y - y) / max(box[3] - box[1], 1e-6)
    far = max(abs(to_x), abs(to_y), 1e-6)
    if abs(to_x) >= abs(to_y):
        return ("right" if to_x > 0 else "left"), _inner(0.5 + to_y / (2 * far))
    return ("bottom" if to_y > 0 else "top"), _inner(0.5 + to_x / (2 * far))


def _into_gap(inner: Box, outer: Box, others: Sequence[Box]) -> tuple[str, Point]:
    """Return the side of the inner box at a wide gap, and the middle of this gap.

    Gaps whose middle is in another box come last, because an arrow would seem to point at it.
    """
    gaps = {
        "left": (inner[0] - outer[0], (-1, 0)),
        "right": (outer[2] - inner[2], (1, 0)),
        "top": (inner[1] - outer[1], (0, -1)),
        "bottom": (outer[3] - inner[3], (0, 1)),
    }
    enough = NARROW * min(outer[2] - outer[0], outer[3] - outer[1])
    found: list[tuple[bool, float, str, Point]] = []
    for side, (gap, (step_x, step_y)) in gaps.items():
        x, y = _place(inner, side, 0.5)
        reach = max(gap, 0.0) / 2
        x, y = x + reach * step_x, y + reach * step_y
        hit = any(one[0] <= x <= one[2] and one[1] <= y <= one[3] for one in others)
        found.append((hit or gap < enough, -gap, side, (x, y)))
    _, _, side, point = min(found)
    return side, point


def _inner(share: float) -> float:
    return min(max(share, MARGIN), 1 - MARGIN)


def _place(box: Box, side: str, share: float) -> Point:
    x1, y1, x2, y2 = box
    x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
    return {"left": (x1, y), "right": (x2, y), "top": (x, y1), "bottom": (x, y2)}[side]
