"""Charts of the report as inline SVG: curves of training, and histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

FEW = 12  # points of a line that are marked one by one
COLOURS = 6  # classes s0 ... of the style sheet
BARS = 24  # at most, in a histogram


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    label: str,
    unit: str = "",
    top: float = 0,
    *,
    log: bool = False,
    span: float = 0.0,
) -> str:
    """Draw a line chart; "" without points.

    Args:
        series: name -> (step, value) points; the first lines have the strongest colours.
        label: title of the vertical axis.   unit: suffix of its numbers.
        top: smallest upper end of the vertical axis, which then starts at 0.
        log: logarithmic vertical axis; values of 0 and less are left out.
        span: least difference between the ends of the vertical axis, so that noise looks small.
    """
    if log:
        series = {
            name: [(step, math.log10(value)) for step, value in line if value > 0]
            for name, line in series.items()
        }
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points:
        return ""
    named = len(series) > 1
    longest = max(len(name) for name in series) if named else 0
    width, height, x0, y0 = 480, 232, 48, 26
    right = width - max(16, min(round(0.66 * 12.5 * longest) + 16, 200))
    bottom = height - 34
    last = max(max(step for step, _ in points), 1)
    least, most = min(value for _, value in points), max(value for _, value in points)
    if log:
        first = math.floor(least)
        ticks = [float(n) for n in range(first, max(math.ceil(most), first + 1) + 1)]
    else:
        ticks = _ticks(*_widened(0.0 if top else least, max(most, top), span))
    low, high = ticks[0], ticks[-1]

    def at(step: float, value: float) -> tuple[float, float]:
        share = (value - low) / ((high - low) or 1)
        return x0 + (right - x0) * step / last, bottom - (bottom - y0) * share

    whom = ", ".join(series)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(label)} against training steps: {escape(whom)}</title>"
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
        if not places:
            continue
        colour = number % COLOURS
        if len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line s{colour}" d="M{path}"/>')
        if len(places) <= FEW:  # a line of one point is only a marker
            parts += [
                f'<circle class="mark s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
                for x, y in places
            ]
        ends.append((places[-1][1], colour, name))
    if named:
        parts += _names(ends, right + 9, y0, bottom)
    return "".join([*parts, "</svg>"])


def _names(ends: list[tuple[float, int, str]], x: float, top: float, bottom: float) -> list[str]:
    """Write the names of lines at their ends, without overlap and inside the chart."""
    places = sorted(ends)
    heights: list[float] = []
    for wish, _, _ in places:
        heights.append(max(wish, heights[-1] + 14 if heights else top))
    over = heights[-1] - bottom
    for at in reversed(range(len(heights))):  # push up what is below the chart
        limit = bottom if at == len(heights) - 1 else heights[at + 1] - 14
        if over > 0:
            heights[at] = min(heights[at], limit)
    return [
        f'<text class="end s{colour}" x="{x}" y="{y + 4:.1f}">{escape(name)}</text>'
        for y, (_, colour, name) in zip(heights, places, strict=True)
    ]


def _widened(low: float, high: float, span: float) -> tuple[float, float]:
    """Return a range of at least ``span`` around another one; from 0 if it would be below.

    >>> _widened(50.0, 51.0, 5.0), _widened(1.0, 2.0, 5.0), _widened(1.0, 9.0, 5.0)
    ((48.0, 53.0), (0.0, 5.0), (1.0, 9.0))
    """
    missing = span - (high - low)
    if missing <= 0:
        return low, high
    first = low - missing / 2
    if low >= 0:
        first = max(first, 0.0)
    return first, first + span


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


def histogram(counts: npt.NDArray[Any], title: str) -> str:
    """Draw how often each number occurs; "" without numbers.

    Args:
        counts: (n,) whole numbers of 0 and more, such as the objects of each image.
        title: what they are, such as ``Objects per image``.
    """
    if not len(counts):
        return ""
    most = int(counts.max())
    step = next(m for m in _round_steps() if most // m < BARS)
    bars = np.bincount(counts // step)
    middle, high = np.median(counts), np.percentile(counts, 90)
    width, height, x0, y0 = 300, 168, 8, 44
    bottom, right = height - 22, width - 8
    wide = (right - x0) / max(len(bars), 8)
    share = 100 * bars / len(counts)
    about = f"median {middle:g}, 90 % at most {high:g}, largest {most:,}"
    parts = [
        f'<svg class="chart histogram" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}: {about}</title>"
        f'<text class="head" x="{x0}" y="14">{escape(title)}</text>'
        f'<text class="axis" x="{x0}" y="31">{about}</text>'
        f'<path class="grid" d="M{x0} {bottom}H{right}"/>'
    ]
    for at, part in enumerate(share):
        tall = (bottom - y0) * part / share.max()
        if part > 0:
            parts.append(
                f'<rect class="bar" x="{x0 + at * wide + 0.75:.2f}" y="{bottom - tall:.2f}" '
                f'width="{max(wide - 1.5, 1):.2f}" height="{tall:.2f}" rx="1"><title>'
                f"{_bin(at, step)}: {part:.1f} %</title></rect>"
            )
    every = max(1, math.ceil(len(bars) / 6))
    parts += [
        f'<text class="axis" x="{x0 + (at + 0.5) * wide:.1f}" y="{bottom + 15}" '
        f'text-anchor="middle">{at * step}</text>'
        for at in range(0, len(bars), every)
    ]
    return "".join([*parts, "</svg>"])


def _bin(at: int, step: int) -> str:
    return f"{at}" if step == 1 else f"{at * step} to {(at + 1) * step - 1}"


def _round_steps() -> list[int]:
    return [m * 10**power for power in range(7) for m in (1, 2, 5)]
