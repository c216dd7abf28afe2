"""What notebooks show of graphs and stores: small SVGs and tables, without matplotlib.

Labels, captions and ids come from files of others, so every text is escaped, and characters that
XML forbids are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

# Distinct on photos and for colour-blind readers; dark enough for white letters.
COLOURS = ("#0072b2", "#d1495b", "#1b7f5c", "#a8590a", "#7a4fa3", "#00798c", "#8f3b76", "#5b6c00")
WIDE = 480  # pixels of a drawing of boxes; its height follows
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LETTER = 7.6  # pixels, mean advance of 14 pixels system-ui


def safe(text: object) -> str:
    r"""Return a text for HTML and SVG.

    >>> safe("<b>\x00")
    '&lt;b&gt;\ufffd'
    """
    return escape(_FORBIDDEN.sub("\ufffd", str(text)))


def boxes_svg(
    size: tuple[int, int],
    boxes: npt.NDArray[np.float32],
    labels: Sequence[str],
    relations: Iterable[tuple[int, str, int]],
) -> str:
    """Draw boxes with labels, and relations as arrows between their centres.

    Args:
        size: (width, height) of the image in pixels.
        boxes: (n, 4) xyxy pixels.   labels: n labels.
        relations: (subject row, predicate, object row).
    """
    width, height = (max(side, 1) for side in size)
    scale = WIDE / width
    tall = max(round(height * scale), 40)
    parts = [f'<rect width="{WIDE}" height="{tall}" fill="#eef0f4"/>']
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * scale
    for row, (x1, y1, x2, y2) in enumerate(scaled.tolist()):
        colour = COLOURS[row % len(COLOURS)]
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    for subject, predicate, target in relations:
        colour = COLOURS[subject % len(COLOURS)]
        (x1, y1), (x2, y2) = (
            ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in scaled[[subject, target]]
        )
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            'stroke-width="1.6" marker-end="url(#tip)"/>'
        )
        parts.append(_tag((x1 + x2) / 2, (y1 + y2) / 2, predicate, "#ffffff", colour))
    for row, (x1, y1, _, _) in enumerate(scaled.tolist()):
        half = _LETTER * len(labels[row]) / 2 + 5
        x, y = max(x1 + half, half), max(y1, 9.0)
        parts.append(_tag(x, y, labels[row], COLOURS[row % len(COLOURS)], "#ffffff"))
    return _svg(WIDE, tall, parts)


def tree_svg(tokens: Sequence[str], heads: Sequence[int], below: Sequence[str]) -> str:
    """Draw the words of a caption with an arc from each head, and lines of text below.

    Args:
        tokens: the words.   heads: row of each word's head, -1 for a root.
        below: lines, such as triplets.
    """
    widths = [_LETTER * max(len(token), 1) + 14 for token in tokens]
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    middle = ((edges[:-1] + edges[1:]) / 2 + 10).tolist()
    spans = [abs(row - head) for row, head in enumerate(heads) if head >= 0]
    base = 30 + 16 * min(max(spans, default=0), 10)
    parts = []
    for row, (token, x) in enumerate(zip(tokens, middle, strict=True)):
        parts.append(_text(x, base, token, "#1d2433", "middle"))
        head = heads[row] if row < len(heads) else -1
        if head >= 0:
            start, top = middle[head], base - 18
            rise = top - 16 * min(abs(row - head), 10) * 4 / 3
            parts.append(
                f'<path d="M{start:.1f} {top} C{start:.1f} {rise:.1f} {x:.1f} {rise:.1f} {x:.1f} '
                f'{top + 2}" fill="none" stroke="#6b7280" marker-end="url(#tip)"/>'
            )
    for number, line in enumerate(below, 1):
        parts.append(_text(10, base + 8 + 20 * number, line, COLOURS[0], "start"))
    wide = max(float(edges[-1]) + 20, *(10 + _LETTER * len(line) for line in ("", *below)))
    tall = base + 18 + 20 * len(below)
    return _svg(round(wide), tall, [f'<rect width="100%" height="{tall}" fill="#ffffff"/>', *parts])


def table_html(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of two columns below a title."""
    cells = "".join(
        f'<tr><th style="text-align:left">{safe(name)}</th>'
        f'<td style="text-align:left">{safe(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{safe(title)}</caption><tbody>{cells}</tbody></table>"


def _text(x: float, y: float, words: str, colour: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{safe(words)}</text>'
    )


def _tag(x: float, y: float, words: str, paper: str, ink: str) -> str:
    wide = _LETTER * len(words) + 8
    return (
        f'<rect x="{x - wide / 2:.1f}" y="{y - 9:.1f}" width="{wide:.1f}" height="18" rx="4" '
        f'fill="{paper}" stroke="{ink}"/>' + _text(x, y + 5, words, ink, "middle")
    )


def _svg(width: int, height: float, parts: Iterable[str]) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0L10 5L0 10z" fill="#6b7280"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="14">'
        f"{tip}{''.join(parts)}</svg>"
    )
