"""Dependency arcs of a caption as SVG, for pages whose style sheet has the classes.

An arc has the class ``arc``, its head ``tip`` and its name ``dep``; a word is a group of class
``word`` and its role, with its ``form`` and its part of speech (``pos``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from features.inline import safe
from features.records import TextGraph

CHARACTER = 8.3  # pixels that a character of 15 px takes at most, on average
GAP = 16.0
STEP = 19.0  # pixels between two levels of arcs
SHIFT = 4.5  # pixels between the ends of two arcs at one word


def arcs_svg(graph: TextGraph, marks: Sequence[str] = ()) -> str:
    """Draw the words of a caption with their arcs.

    Args:
        graph: the parsed caption.
        marks: for each token the attributes of its group, such as ``tabindex="0"``, escaped; where
            a token has some, the drawing is a group of elements, else one picture.
    """
    middles: list[float] = []
    x = GAP
    for token, tag in zip(graph.tokens, graph.xpos, strict=True):
        wide = max(CHARACTER * len(token), 6.5 * len(tag), 20.0)
        middles.append(x + wide / 2)
        x += wide + GAP
    edges = [(head, at) for at, head in enumerate(graph.heads) if head >= 0]
    levels = arc_levels(edges)
    line = 22 + STEP * max(levels.values(), default=0)
    size = f"{x:.0f} {line + 42:.0f}".split()
    role = "group" if any(marks) else "img"
    parts = [
        f'<svg class="arcs" width="{size[0]}" height="{size[1]}" viewBox="0 0 {" ".join(size)}" '
        f'role="{role}" aria-label="Dependency arcs of: {safe(graph.caption)}">'
    ]
    for head, at in edges:
        side = 1 if at > head else -1
        a, b = middles[head] + side * SHIFT, middles[at] - side * SHIFT / 3
        top = line - STEP * levels[head, at]
        bend = min(abs(b - a) / 3, 16.0) * side
        parts.append(
            f'<path class="arc" d="M{a:.1f} {line:.1f}C{a:.1f} {top + 5:.1f} {a + bend / 3:.1f} '
            f"{top:.1f} {a + bend:.1f} {top:.1f}H{b - bend:.1f}C{b - bend / 3:.1f} {top:.1f} "
            f'{b:.1f} {top + 5:.1f} {b:.1f} {line - 4:.1f}"/>'
            f'<path class="tip" d="M{b - 3:.1f} {line - 5:.1f}h6l-3 6z"/>'
            f'<text class="dep" x="{(a + b) / 2:.1f}" y="{top - 4:.1f}">'
            f"{safe(graph.deprels[at])}</text>"
        )
    roles = graph.roles or ("other",) * len(graph.tokens)
    for at, (middle, form, tag) in enumerate(zip(middles, graph.tokens, graph.xpos, strict=True)):
        mark = f" {marks[at]}" if marks and marks[at] else ""
        parts.append(
            f'<g class="word {safe(roles[at])}"{mark}><text class="form" x="{middle:.1f}" '
            f'y="{line + 18:.1f}">{safe(form)}</text><text class="pos" x="{middle:.1f}" '
            f'y="{line + 34:.1f}">{safe(tag)}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def arc_levels(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the level of each arc, from 1: above every arc that it meets and that is shorter.

    >>> arc_levels([(1, 0), (3, 1), (3, 2)])
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
