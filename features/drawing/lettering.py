"""Place words on a drawing where they cover least, with a thin line to their anchor if moved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = "#ffffff"
# How far a word may move, in halves of its own width and height.
SHIFTS = [(0.0, 0.0), *((x, y) for r in (2, 4, 6) for x in (-r / 2, 0, r / 2) for y in (-r, 0, r))]


class Word(NamedTuple):
    """A word to write and its possible anchors, best first."""

    text: str
    colour: str
    places: Sequence[tuple[float, float]]
    solid: bool  # white on colour for objects, colour on white for predicates


def place_words(axes: Axes, words: Sequence[Word], size: tuple[int, int]) -> None:
    """Write every word where it covers least of the earlier words; link it to a distant anchor."""
    figure: Any = axes.figure
    renderer = figure.canvas.get_renderer()
    to_pixels, to_data = axes.transData.transform, axes.transData.inverted().transform
    canvas = axes.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    for word in words:
        style: dict[str, Any] = {
            "boxstyle": "round,pad=0.22",
            "fc": word.colour if word.solid else PAPER,
            "ec": PAPER if word.solid else word.colour,
            "lw": 0.9,
        }
        text = axes.text(
            size[0] / 2,
            size[1] / 2,
            word.text,
            fontsize=8.5 if word.solid else 8,
            color=PAPER if word.solid else word.colour,
            weight="bold" if word.solid else "normal",
            style="normal" if word.solid else "italic",
            ha="center",
            va="center",
            bbox=style,
            zorder=10,
        )
        extent = text.get_window_extent(renderer)
        w, h = (extent.width + 9) / 2, (extent.height + 8) / 2
        best = (np.inf, 0.0, 0.0, (0.0, 0.0))
        for (dx, dy), anchor in itertools.product(SHIFTS, word.places):
            x, y = map(float, to_pixels(anchor))
            at_x = float(np.clip(x + dx * w, canvas.x0 + w, max(canvas.x0 + w, canvas.x1 - w)))
            at_y = float(np.clip(y + dy * h, canvas.y0 + h, max(canvas.y0 + h, canvas.y1 - h)))
            area = (at_x - w, at_y - h, at_x + w, at_y + h)
            far = np.hypot(at_x - x, at_y - y)
            cost = sum(shared_area(area, other) for other in taken) + 1.5 * far
            if cost < best[0] - 1e-6:
                best = (cost, at_x, at_y, anchor)
        _, x, y, anchor = best
        taken.append((x - w, y - h, x + w, y + h))
        place = tuple(map(float, to_data((x, y))))
        text.set_position((place[0], place[1]))
        if np.hypot(*(to_pixels(anchor) - (x, y))) > 1.5 * max(w, h):
            line = ([anchor[0], place[0]], [anchor[1], place[1]])
            axes.plot(*line, "-", lw=1.6, color=PAPER, zorder=8)
            axes.plot(*line, "-", lw=0.8, color=word.colour, zorder=9)


def shared_area(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the area of the intersection of two xyxy boxes."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
