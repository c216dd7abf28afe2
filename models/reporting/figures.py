"""Inline SVG for the report: scene graphs over images.

Colours are classes of the page's style sheet, which has a light and a dark theme, except over an
image, where they are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from features.drawing import COLOURS, Strongest, end_points
from features.records import SceneGraph

CHARACTER = 0.58  # width of a character of the report's font, in font sizes


def overlay(
    graph: SceneGraph, chosen: Strongest, name: str, words: Sequence[str] | None = None
) -> str:
    """Draw boxes, labels and arrows to place over an image of ``graph.size``.

    Each relation is a group of class ``edge e0``, ``e1`` ... with its arrow and union box; the
    style sheet shows the union box when the reader points at the text of the relation.

    Args:
        graph: the scene graph.   chosen: objects and relations to draw.
        name: prefix of element ids, unique in the page.
        words: what to write at each relation; its predicate by default.
    """
    width, height = graph.size
    font = max(height, 100) / 22  # photos of a row have the same height
    thin = max(width, height) / 240
    parts = [
        f'<svg class="overlay" viewBox="0 0 {width} {height}" aria-hidden="true">',
    ]
    for at, row in enumerate(chosen.objects):
        x1, y1, x2, y2 = (float(v) for v in graph.boxes[row])
        colour = COLOURS[at % len(COLOURS)]
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="{1.6 * thin:.2f}" rx="{thin:.2f}"/>'
        )
    taken: list[tuple[float, float, float, float]] = []
    tags = []
    for at, row in enumerate(chosen.objects):
        x1, y1 = (float(v) for v in graph.boxes[row][:2])
        tag = _tag(graph.labels[row], x1, y1 - 0.6 * font, font, (width, height), taken)
        tags.append(tag.replace("#000", COLOURS[at % len(COLOURS)]))
    pairs = [(graph.relations[row][0], graph.relations[row][2]) for row in chosen.relations]
    said = words or [graph.relations[row][1] for row in chosen.relations]
    routes = end_points(graph.boxes, pairs)
    for at, (relation, route) in enumerate(zip(chosen.relations, routes, strict=True)):
        (ax, ay), (bx, by) = route
        length = math.hypot(bx - ax, by - ay) or 1.0
        bend = 0.12 * length
        cx = (ax + bx) / 2 - (by - ay) / length * bend
        cy = (ay + by) / 2 + (bx - ax) / length * bend
        path = f"M{ax:.1f} {ay:.1f}Q{cx:.1f} {cy:.1f} {bx:.1f} {by:.1f}"
        colour = COLOURS[chosen.objects.index(graph.relations[relation][0]) % len(COLOURS)]
        ux1, uy1, ux2, uy2 = (float(v) for v in graph.union_boxes[relation])
        # the word is beside the arrow, where the arrow bends to
        half = (CHARACTER * len(said[at]) + 0.7) * font / 2
        aside_x, aside_y = -(by - ay) / length, (bx - ax) / length
        middle = (
            (ax + bx + 2 * cx) / 4 + aside_x * (half + 0.3 * font),
            (ay + by + 2 * cy) / 4 + aside_y * 1.05 * font,
        )
        word = _tag(said[at], *middle, font, graph.size, taken, middle=True)
        parts.append(
            f'<g class="edge e{at}"><defs><marker id="{name}-{at}" viewBox="0 0 8 8" refX="6" '
            'refY="4" markerWidth="4.5" markerHeight="4.5" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{colour}" stroke="#fff" stroke-width=".8"/></marker>'
            f'</defs><rect class="union" x="{ux1:.1f}" y="{uy1:.1f}" '
            f'width="{ux2 - ux1:.1f}" height="{uy2 - uy1:.1f}" stroke-width="{thin:.2f}" '
            f'stroke-dasharray="{4 * thin:.1f} {3 * thin:.1f}"/>'
            f'<path d="{path}" stroke="#fff" stroke-width="{3.4 * thin:.2f}" fill="none"/>'
            f'<path d="{path}" stroke="{colour}" stroke-width="{1.8 * thin:.2f}" '
            f'fill="none" marker-end="url(#{name}-{at})"/>'
            f'<circle cx="{ax:.1f}" cy="{ay:.1f}" r="{2 * thin:.1f}" fill="{colour}" '
            f'stroke="#fff" stroke-width="{0.8 * thin:.1f}"/></g>'
        )
        tags.append(f'<g class="edge e{at}">{word}</g>')  # words over all lines
    return "".join([*parts, *tags, "</svg>"])


def _tag(
    text: str,
    x: float,
    y: float,
    font: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
    *,
    middle: bool = False,
) -> str:
    """Draw a word on a dark rectangle, inside the image and apart from those in ``taken``.

    Args:
        text: the word.   x, y: its left end, or its ``middle``.   font: size of a letter.
        size: of the image.   taken: rectangles of earlier words; this one is added.
    """
    wide, high = (CHARACTER * len(text) + 0.7) * font, 1.35 * font
    x = min(max(x - wide / 2 if middle else x, 1), max(size[0] - wide - 1, 1))
    bottom = max(size[1] - high - 1, 1)
    y = min(max(y - high / 2, 1), bottom)
    for step in (0, 1, -1, 2, -2, 3, -3, 4):
        at = min(max(y + step * high, 1), bottom)
        if not any(x < c and x + wide > a and at < d and at + high > b for a, b, c, d in taken):
            y = at
            break
    taken.append((x, y, x + wide, y + high))
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" '
        f'rx="{0.25 * font:.1f}" fill="#000" fill-opacity=".88"/>'
        f'<text x="{x + wide / 2:.1f}" y="{y + 0.98 * font:.1f}" font-size="{font:.1f}" '
        f'fill="#fff" text-anchor="middle">{escape(text)}</text>'
    )
