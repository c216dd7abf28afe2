"""Inline SVG for the report: scene graphs over images, dependency arcs and curves.

Colours are classes of the page's style sheet, which has a light and a dark theme, except over an
image, where they are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from features.drawing import COLOURS, Strongest
from features.records import SceneGraph, TextGraph

CHARACTER = 0.58  # width of a character of the report's font, in font sizes


def overlay(graph: SceneGraph, chosen: Strongest, name: str) -> str:
    """Draw boxes, labels and arrows to place over an image of ``graph.size``.

    Each relation is a group of class ``edge e0``, ``e1`` ... with arrow and union box; the style
    sheet highlights it when the reader points at its text.

    Args:
        graph: the scene graph.   chosen: objects and relations to draw.
        name: prefix of element ids, unique in the page.
    """
    width, height = graph.size
    font = max(width, 240) / 30
    thin = width / 220
    parts = [
        f'<svg class="overlay" viewBox="0 0 {width} {height}" aria-hidden="true">',
        f'<defs><marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" '
        'markerHeight="5" orient="auto"><path d="M0 0 8 4 0 8z" fill="#fff"/></marker></defs>',
    ]
    for at, row in enumerate(chosen.objects):
        x1, y1, x2, y2 = (float(v) for v in graph.boxes[row])
        colour = COLOURS[at % len(COLOURS)]
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="{1.6 * thin:.2f}" rx="{thin:.2f}"/>'
        )
    for at, relation in enumerate(chosen.relations):
        parts.append(_edge(graph, relation, at, name, thin, font))
    taken: list[tuple[float, float, float, float]] = []
    for at, row in enumerate(chosen.objects):
        x1, y1 = (float(v) for v in graph.boxes[row][:2])
        tag = _tag(graph.labels[row], x1, y1 - 0.6 * font, font, (width, height), taken)
        parts.append(tag.replace("#000", COLOURS[at % len(COLOURS)]))
    return "".join([*parts, "</svg>"])


def _edge(graph: SceneGraph, relation: int, at: int, name: str, thin: float, font: float) -> str:
    subject, predicate, target = graph.relations[relation]
    (ax, ay), (bx, by) = (_middle(graph, row) for row in (subject, target))
    length = math.hypot(bx - ax, by - ay) or 1.0
    bend = 0.12 * length
    cx = (ax + bx) / 2 - (by - ay) / length * bend
    cy = (ay + by) / 2 + (bx - ax) / length * bend
    ux1, uy1, ux2, uy2 = (float(v) for v in graph.union_boxes[relation])
    path = f"M{ax:.1f} {ay:.1f}Q{cx:.1f} {cy:.1f} {bx:.1f} {by:.1f}"
    words = _tag(predicate, (ax + bx + 2 * cx) / 4, (ay + by + 2 * cy) / 4, font, graph.size, [])
    return (
        f'<g class="edge e{at}"><rect class="union" x="{ux1:.1f}" y="{uy1:.1f}" '
        f'width="{ux2 - ux1:.1f}" height="{uy2 - uy1:.1f}" stroke-width="{thin:.2f}" '
        f'stroke-dasharray="{4 * thin:.1f} {3 * thin:.1f}"/>'
        f'<path d="{path}" stroke="#000" stroke-opacity=".45" stroke-width="{2.6 * thin:.2f}" '
        f'fill="none"/><path d="{path}" stroke="#fff" stroke-width="{1.3 * thin:.2f}" fill="none" '
        f'marker-end="url(#{name})"/><g class="predicate">{words}</g></g>'
    )


def _middle(graph: SceneGraph, row: int) -> tuple[float, float]:
    x1, y1, x2, y2 = (float(v) for v in graph.boxes[row])
    return (x1 + x2) / 2, (y1 + y2) / 2


def _tag(
    text: str,
    x: float,
    y: float,
    font: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> str:
    """Draw a word on a dark rectangle, inside the image and apart from those in ``taken``."""
    wide, high = (CHARACTER * len(text) + 0.7) * font, 1.35 * font
    x = min(max(x, 1), max(size[0] - wide - 1, 1))
    y = min(max(y - high / 2, 1), max(size[1] - high - 1, 1))
    for _ in range(6):
        if not any(x < c and x + wide > a and y < d and y + high > b for a, b, c, d in taken):
            break
        y = min(y + high, max(size[1] - high - 1, 1))
    taken.append((x, y, x + wide, y + high))
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" '
        f'rx="{0.25 * font:.1f}" fill="#000" fill-opacity=".88"/>'
        f'<text x="{x + wide / 2:.1f}" y="{y + 0.98 * font:.1f}" font-size="{font:.1f}" '
        f'fill="#fff" text-anchor="middle">{escape(text)}</text>'
    )


def arcs(graph: TextGraph) -> str:
    """Draw a caption with its dependency arcs; words are coloured by role."""
    font, gap = 15.0, 14.0
    left: list[float] = []
    x = gap
    for token in graph.tokens:
        left.append(x)
        x += max(CHARACTER * font * len(token), 18) + gap
    centre = [
        start + max(CHARACTER * font * len(token), 18) / 2
        for start, token in zip(left, graph.tokens, strict=True)
    ]
    edges = [(head, at) for at, head in enumerate(graph.heads) if head >= 0]
    levels = _levels(edges)
    ceiling = 26 + 15 * max(levels.values(), default=1)
    parts = [
        f'<svg class="arcs" viewBox="0 0 {x:.0f} {ceiling + 46}" width="{x:.0f}" '
        f'height="{ceiling + 46}" role="img"><title>Dependency graph of: '
        f"{escape(graph.caption)}</title>"
    ]
    for head, at in edges:
        top = ceiling - 14 - 20 * levels[head, at]
        shift = 4 if head < at else -4
        a, b = centre[head] + shift, centre[at] - shift / 4
        y = ceiling - 5
        parts.append(
            f'<path class="arc" d="M{a:.1f} {ceiling}C{a:.1f} {top:.1f} {b:.1f} {top:.1f} '
            f'{b:.1f} {y}"/><path class="tip" d="M{b - 3.2:.1f} {y}h6.4l-3.2 6z"/>'
            f'<text class="dep" x="{(a + b) / 2:.1f}" y="{(ceiling + 3 * top) / 4 - 2:.1f}">'
            f"{escape(graph.deprels[at])}</text>"
        )
    for at, token in enumerate(graph.tokens):
        role = graph.roles[at] if graph.roles else "other"
        parts.append(
            f'<text class="word {role}" x="{centre[at]:.1f}" y="{ceiling + 18}">{escape(token)}'
            f'</text><text class="tag" x="{centre[at]:.1f}" y="{ceiling + 35}">'
            f"{escape(graph.xpos[at])}</text>"
        )
    return "".join([*parts, "</svg>"])


def _levels(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the level of each arc, from 1, so that it clears the arcs inside it."""
    levels: dict[tuple[int, int], int] = {}
    for edge in sorted(edges, key=lambda edge: abs(edge[0] - edge[1])):
        low, high = sorted(edge)
        inside = [
            level
            for other, level in levels.items()
            if low <= min(other) and max(other) <= high and other != edge
        ]
        levels[edge] = 1 + max(inside, default=0)
    return levels


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    label: str,
    unit: str = "",
    top: float = 0,
    *,
    log: bool = False,
) -> str:
    """Draw a line chart; "" without points.

    Args:
        series: name -> (step, value) points; the first lines have the strongest colours.
        label: title of the vertical axis.   unit: suffix of its numbers.
        top: smallest upper end of the vertical axis, which then starts at 0.
        log: logarithmic vertical axis; values of 0 and less are left out.
    """
    if log:
        series = {
            name: [(step, math.log10(value)) for step, value in line if value > 0]
            for name, line in series.items()
        }
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points:
        return ""
    width, height, x0, y0 = 440, 232, 48, 26
    right, bottom = width - 92, height - 34
    last = max(max(step for step, _ in points), 1)
    least, most = min(value for _, value in points), max(value for _, value in points)
    if log:
        first = math.floor(least)
        ticks = [float(n) for n in range(first, max(math.ceil(most), first + 1) + 1)]
    else:
        ticks = _ticks(0.0 if top else least, max(most, top))
    low, high = ticks[0], ticks[-1]

    def at(step: float, value: float) -> tuple[float, float]:
        share = (value - low) / ((high - low) or 1)
        return x0 + (right - x0) * step / last, bottom - (bottom - y0) * share

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(label)} against training steps</title>"
        f'<text class="axis" x="{x0}" y="13">{escape(label)}</text>'
    ]
    for tick in ticks:
        y = at(0, tick)[1]
        parts.append(
            f'<path class="grid" d="M{x0} {y:.1f}H{right}"/><text class="axis" x="{x0 - 7}" '
            f'y="{y + 4:.1f}" text-anchor="end">{10**tick if log else tick:g}{unit}</text>'
        )
    for step in (0, last / 2, last):
        x = at(step, low)[0]
        parts.append(
            f'<text class="axis" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">'
            f"{step:,.0f}</text>"
        )
    parts.append(
        f'<text class="axis" x="{(x0 + right) / 2}" y="{height - 2}" '
        'text-anchor="middle">steps</text>'
    )
    ends: list[tuple[float, int, str]] = []
    for number, (name, line) in enumerate(series.items()):
        places = [at(*point) for point in line if math.isfinite(point[1])]
        if places:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line s{number}" d="M{path}"/>')
            ends.append((places[-1][1], number, name))
    y = -math.inf
    for wish, number, name in sorted(ends):  # names at the ends of the lines, without overlap
        y = max(wish, y + 14)
        parts.append(
            f'<text class="end s{number}" x="{right + 7}" y="{y + 4:.1f}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose low and high.

    >>> _ticks(0.0, 87.0)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    span = (high - low) or max(abs(high), 1.0)
    rough = span / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(step * n, 10) for n in range(first, max(last, first + 1) + 1)]
