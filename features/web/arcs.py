"""Dependency arcs of a caption as SVG, drawn by the template ``arcs.svg``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from features.records import TextGraph

__all__ = ["Arcs", "layout"]

CHARACTER = 8.3  # pixels that a character of 15 px takes at most, on average
GAP = 16.0
STEP = 19.0  # pixels between two levels of arcs
SHIFT = 4.5  # pixels between the ends of two arcs at one word


@dataclass(frozen=True)
class Word:
    """A word below the arcs: its middle, form, part of speech, role and row among the objects."""

    x: float
    form: str
    tag: str
    role: str
    object: int


@dataclass(frozen=True)
class Arc:
    """An arc from a head to its dependent, as the path of a curve, and its label's place."""

    path: str
    tip: str
    x: float
    y: float
    name: str


@dataclass(frozen=True)
class Arcs:
    """The drawing: its size in pixels, the line of words, words and arcs."""

    width: float
    height: float
    line: float
    words: Sequence[Word]
    arcs: Sequence[Arc]


def layout(graph: TextGraph) -> Arcs:
    """Place the words of a caption and the arcs above them."""
    owner = {at: row for row, places in enumerate(graph.object_positions) for at in places}
    middles: list[float] = []
    x = GAP
    for token, tag in zip(graph.tokens, graph.xpos, strict=True):
        wide = max(CHARACTER * len(token), 6.5 * len(tag), 20.0)
        middles.append(x + wide / 2)
        x += wide + GAP
    edges = [(head, at) for at, head in enumerate(graph.heads) if head >= 0]
    levels = _levels(edges)
    line = 22 + STEP * max(levels.values(), default=0)
    arcs = []
    for head, at in edges:
        side = 1 if at > head else -1
        a, b = middles[head] + side * SHIFT, middles[at] - side * SHIFT / 3
        top = line - STEP * levels[head, at]
        bend = min(abs(b - a) / 3, 16.0) * side
        path = (
            f"M{a:.1f} {line:.1f}C{a:.1f} {top + 5:.1f} {a + bend / 3:.1f} {top:.1f} "
            f"{a + bend:.1f} {top:.1f}H{b - bend:.1f}C{b - bend / 3:.1f} {top:.1f} {b:.1f} "
            f"{top + 5:.1f} {b:.1f} {line - 4:.1f}"
        )
        tip = f"M{b - 3:.1f} {line - 5:.1f}h6l-3 6z"
        arcs.append(Arc(path, tip, (a + b) / 2, top - 4, graph.deprels[at]))
    roles = graph.roles or ("other",) * len(graph.tokens)
    words = [
        Word(middle, form, tag, role, owner.get(at, -1))
        for at, (middle, form, tag, role) in enumerate(
            zip(middles, graph.tokens, graph.xpos, roles, strict=True)
        )
    ]
    return Arcs(x, line + 42, line, words, arcs)


def _levels(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the level of each arc, from 1: above every arc that it meets and that is shorter.

    >>> _levels([(1, 0), (3, 1), (3, 2)])
    {(1, 0): 1, (3, 2): 1, (3, 1): 2}
    """
    levels: dict[tuple[int, int], int] = {}
    for edge in sorted(edges, key=lambda one: (abs(one[0] - one[1]), one)):
        low, high = min(edge), max(edge)
        below = [level for other, level in levels.items() if min(other) < high and max(other) > low]
        levels[edge] = next(
            n for n in itertools.count(1) if n not in below and n > _nested(edge, levels)
        )
    return levels


def _nested(edge: tuple[int, int], levels: dict[tuple[int, int], int]) -> int:
    """Return the highest level of the arcs inside an arc, 0 if there are none."""
    low, high = min(edge), max(edge)
    inside = [level for other, level in levels.items() if low <= min(other) and max(other) <= high]
    return max(inside, default=0)
