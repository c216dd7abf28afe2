"""Drawings of the demo's objects as flat shapes in unit coordinates, (0, 0) top left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from pipeline.demo.world import COLOURS

RGB = tuple[int, int, int]
_INK: RGB = (44, 40, 46)
_SKIN: tuple[RGB, RGB] = ((236, 188, 152), (150, 100, 70))
_HAIR: tuple[RGB, RGB] = ((92, 60, 36), (38, 32, 34))
_WOOD: RGB = (132, 92, 58)


def shade(colour: RGB, by: float) -> RGB:
    """Return the colour darker (``by`` < 1) or lighter (``by`` > 1)."""
    if by <= 1:
        return tuple(round(c * by) for c in colour)  # type: ignore[return-value]
    return tuple(round(c + (255 - c) * (by - 1)) for c in colour)  # type: ignore[return-value]


class Pen:
    """Draw on a transparent image in unit coordinates.

    Attributes:
        image: the RGBA image.
    """

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
        self._size = (width, height)
        self._draw = ImageDraw.Draw(self.image)

    def _points(self, *values: float) -> list[float]:
        return [v * (self._size[i % 2] - 1) for i, v in enumerate(values)]

    def polygon(self, points: Sequence[float], fill: RGB) -> None:
        """Fill a polygon, given as x, y, x, y, ..."""
        self._draw.polygon(self._points(*points), fill=fill)

    def ellipse(self, x1: float, y1: float, x2: float, y2: float, fill: RGB) -> None:
        """Fill an ellipse in a box."""
        self._draw.ellipse(self._points(x1, y1, x2, y2), fill=fill)

    def box(
        self, x1: float, y1: float, x2: float, y2: float, fill: RGB, round_by: float = 0.0
    ) -> None:
        """Fill a rectangle with round corners; radius as a share of the shorter side."""
        self._draw.rounded_rectangle(
            self._points(x1, y1, x2, y2), radius=round_by * min(self._size), fill=fill
        )

    def line(self, points: Sequence[float], fill: RGB, width: float) -> None:
        """Draw a line with round joints; width as a share of the shorter side."""
        pixels = max(round(width * min(self._size)), 1)
        flat = self._points(*points)
        self._draw.line(flat, fill=fill, width=pixels, joint="curve")
        for x, y in zip(flat[::2], flat[1::2], strict=True):
            r = pixels / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def slice(
        self, x1: float, y1: float, x2: float, y2: float, start: float, end: float, fill: RGB
    ) -> None:
        """Fill a chord of an ellipse between two angles in degrees, clockwise from the right."""
        self._draw.chord(self._points(x1, y1, x2, y2), start, end, fill=fill)


def _ball(pen: Pen, c: RGB, style: int, part: str) -> None:
    pen.ellipse(0, 0, 1, 1, c)
    pen.slice(0, 0, 1, 1, 30, 150, shade(c, 0.8))
    band = shade(c, 1.55) if c != COLOURS["white"] else shade(c, 0.82)
    if style:
        pen.slice(0, 0, 1, 1, 205, 270, band)
        pen.slice(0, 0, 1, 1, 25, 90, band)
    else:
        pen.polygon((0.02, 0.42, 0.98, 0.42, 0.98, 0.58, 0.02, 0.58), band)
    pen.ellipse(0.2, 0.13, 0.42, 0.3, shade(c, 1.75))


def _basket(pen: Pen, c: RGB, style: int, part: str) -> None:
    if part != "front":
        pen.ellipse(0, 0, 1, 0.3, shade(c, 0.5))
    if part == "back":
        return
    pen.polygon((0.0, 0.15, 1.0, 0.15, 0.86, 1.0, 0.14, 1.0), c)
    if part == "whole":
        pen.ellipse(0.0, 0.02, 1, 0.28, shade(c, 0.5))
    dark = shade(c, 0.74)
    for row in range(4):
        y = 0.3 + 0.17 * row
        for column in range(7):
            x = 0.1 + 0.125 * column + 0.06 * (row % 2)
            if 0.08 + 0.1 * y < x < 0.84 - 0.06 * y:
                pen.box(x, y, x + 0.08, y + 0.07, dark, 0.02)
    if part == "front":
        pen.box(0.0, 0.13, 1.0, 0.24, shade(c, 1.2), 0.05)
    else:
        pen.line((0.03, 0.16, 0.2, 0.24, 0.5, 0.27, 0.8, 0.24, 0.97, 0.16), shade(c, 1.2), 0.08)
    if style:
        pen.box(0.12, 0.88, 0.88, 1.0, shade(c, 0.7), 0.03)


def _bird(pen: Pen, c: RGB, style: int, part: str) -> None:
    pen.polygon((0.0, 0.3, 0.3, 0.5, 0.22, 0.72), shade(c, 0.7))
    pen.ellipse(0.16, 0.36, 0.78, 0.94, c)
    pen.ellipse(0.58, 0.14, 0.9, 0.6, c)
    pen.polygon((0.87, 0.3, 1.0, 0.4, 0.87, 0.46), (240, 170, 40))
    pen.ellipse(0.73, 0.25, 0.8, 0.36, (250, 250, 250) if sum(c) < 300 else _INK)
    wing = shade(c, 0.72) if sum(c) > 300 else shade(c, 1.25)
    if style:
        pen.polygon((0.28, 0.58, 0.62, 0.5, 0.3, 0.0), wing)
    else:
        pen.slice(0.24, 0.3, 0.64, 0.84, 0, 180, wing)
    pen.line((0.44, 0.9, 0.44, 1.0), (200, 130, 40), 0.06)
    pen.line((0.54, 0.9, 0.54, 1.0), (200, 130, 40), 0.06)


def _boat(pen: Pen, c: RGB, style: int, part: str) -> None:
    if part != "front":
        pen.polygon((0.02, 0.2, 0.98, 0.2, 0.9, 0.5, 0.1, 0.5), shade(c, 0.5))
        pen.box(0.3, 0.22, 0.38, 0.46, _WOOD)
        pen.box(0.62, 0.22, 0.7, 0.46, _WOOD)
    if part == "back":
        return
    pen.polygon((0.0, 0.12, 0.14, 0.36, 0.86, 0.36, 1.0, 0.12, 0.85, 1.0, 0.15, 1.0), c)
    trim = shade(c, 1.6) if c != COLOURS["white"] else (60, 96, 150)
    pen.polygon((0.0, 0.12, 0.14, 0.36, 0.86, 0.36, 1.0, 0.12, 0.98, 0.3, 0.87, 0.5, 0.13, 0.5,
                 0.02, 0.3), trim)  # fmt: skip
    pen.polygon((0.12, 0.84, 0.88, 0.84, 0.85, 1.0, 0.15, 1.0), shade(c, 0.7))
    if style:
        for x in (0.28, 0.5, 0.72):
            pen.ellipse(x - 0.025, 0.57, x + 0.025, 0.74, trim)
    else:
        pen.line((0.18, 0.68, 0.82, 0.68), shade(c, 0.75), 0.05)


def _box(pen: Pen, c: RGB, style: int, part: str) -> None:
    if part in ("back", "front"):
        if part == "back":
            pen.polygon((0.06, 0.0, 0.94, 0.0, 1.0, 0.3, 0.0, 0.3), shade(c, 0.5))
            return
        pen.box(0.0, 0.2, 1.0, 1.0, c)
        pen.box(0.0, 0.2, 1.0, 0.27, shade(c, 1.3))
    else:
        pen.polygon((0.12, 0.0, 0.88, 0.0, 1.0, 0.24, 0.0, 0.24), shade(c, 1.35))
        pen.box(0.0, 0.24, 1.0, 1.0, c)
    band = shade(c, 0.72)
    if style:
        pen.line((0.05, 0.33, 0.95, 0.94), band, 0.05)
        pen.line((0.05, 0.94, 0.95, 0.33), band, 0.05)
    else:
        pen.box(0.43, 0.28, 0.57, 1.0, band)
    pen.line((0.02, 0.97, 0.98, 0.97), shade(c, 0.65), 0.05)


def _car(pen: Pen, c: RGB, style: int, part: str) -> None:
    roof = (0.22, 0.44, 0.33, 0.02, 0.7, 0.02, 0.84, 0.44)
    if style:
        roof = (0.14, 0.44, 0.18, 0.02, 0.68, 0.02, 0.82, 0.44)
    pen.polygon(roof, c)
    pen.box(0.0, 0.38, 1.0, 0.82, c, 0.16)
    glass = (196, 222, 236)
    pen.polygon((roof[0] + 0.06, 0.4, roof[2] + 0.03, 0.1, 0.49, 0.1, 0.49, 0.4), glass)
    pen.polygon((0.53, 0.4, 0.53, 0.1, roof[4] - 0.02, 0.1, roof[6] - 0.06, 0.4), glass)
    pen.box(0.02, 0.68, 0.98, 0.76, shade(c, 0.7) if sum(c) > 220 else shade(c, 1.3))
    pen.ellipse(0.92, 0.48, 0.99, 0.62, (252, 236, 170))
    pen.box(0.0, 0.48, 0.04, 0.6, (196, 50, 44))
    for x in (0.22, 0.77):
        pen.ellipse(x - 0.11, 0.52, x + 0.11, 1.0, (36, 36, 40))
        pen.ellipse(x - 0.05, 0.65, x + 0.05, 0.87, (196, 198, 204))


def _cat(pen: Pen, c: RGB, style: int, part: str) -> None:
    dark = shade(c, 0.74) if sum(c) > 200 else shade(c, 1.2)
    tail = (0.76, 0.9, 0.93, 0.84, 0.93, 0.6, 0.82, 0.46) if style else (
        0.76, 0.92, 0.94, 0.9, 0.95, 0.74, 0.88, 0.62)  # fmt: skip
    pen.line(tail, dark, 0.09)
    pen.polygon((0.26, 0.96, 0.3, 0.5, 0.62, 0.44, 0.78, 0.72, 0.8, 0.97), c)
    pen.ellipse(0.2, 0.44, 0.8, 1.0, c)
    pen.polygon((0.16, 0.28, 0.14, 0.0, 0.38, 0.14), c)
    pen.polygon((0.44, 0.14, 0.68, 0.0, 0.68, 0.28), c)
    pen.polygon((0.19, 0.2, 0.18, 0.06, 0.3, 0.13), (232, 160, 150))
    pen.polygon((0.52, 0.13, 0.64, 0.06, 0.63, 0.2), (232, 160, 150))
    pen.ellipse(0.1, 0.1, 0.72, 0.54, c)
    for x in (0.26, 0.5):
        pen.ellipse(x, 0.24, x + 0.09, 0.34, (190, 214, 90))
        pen.ellipse(x + 0.03, 0.25, x + 0.065, 0.33, _INK)
    pen.polygon((0.38, 0.37, 0.47, 0.37, 0.425, 0.42), (214, 120, 116))
    for y in (0.4, 0.44):
        pen.line((0.3, y, 0.08, y - 0.02), (120, 116, 116), 0.012)
        pen.line((0.54, y, 0.78, y - 0.02), (120, 116, 116), 0.012)
    pen.ellipse(0.26, 0.88, 0.46, 1.0, shade(c, 1.15))
    pen.ellipse(0.48, 0.88, 0.68, 1.0, shade(c, 1.15))
    for y in (0.62, 0.72):
        pen.line((0.66, y, 0.78, y + 0.03), dark, 0.03)


def _cone(pen: Pen, c: RGB, style: int, part: str) -> None:
    pen.box(0.0, 0.88, 1.0, 1.0, shade(c, 0.72), 0.05)
    pen.polygon((0.43, 0.0, 0.57, 0.0, 0.88, 0.9, 0.12, 0.9), c)
    band = (250, 250, 246) if c != COLOURS["white"] else (220, 60, 50)
    pen.polygon((0.34, 0.27, 0.66, 0.27, 0.72, 0.44, 0.28, 0.44), band)
    if style:
        pen.polygon((0.22, 0.6, 0.78, 0.6, 0.83, 0.74, 0.17, 0.74), band)


def _dog(pen: Pen, c: RGB, style: int, part: str) -> None:
    dark = shade(c, 0.7) if sum(c) > 200 else shade(c, 1.22)
    pen.line((0.1, 0.46, 0.03, 0.3, 0.05, 0.16) if style else (0.1, 0.48, 0.03, 0.5), c, 0.09)
    for x in (0.14, 0.56):
        pen.box(x, 0.6, x + 0.1, 0.98, dark, 0.05)
    for x in (0.22, 0.64):
        pen.box(x, 0.6, x + 0.1, 1.0, c, 0.05)
    pen.box(0.08, 0.38, 0.76, 0.76, c, 0.18)
    pen.polygon((0.56, 0.6, 0.6, 0.24, 0.82, 0.3, 0.76, 0.62), c)
    pen.ellipse(0.58, 0.05, 0.86, 0.44, c)
    pen.box(0.74, 0.2, 0.98, 0.4, c, 0.08)
    pen.ellipse(0.92, 0.18, 1.0, 0.28, _INK if sum(c) > 200 else (110, 104, 110))
    pen.ellipse(0.74, 0.13, 0.79, 0.2, _INK if sum(c) > 200 else (240, 240, 240))
    pen.ellipse(0.55, 0.06, 0.68, 0.4, dark)
    pen.line((0.6, 0.45, 0.77, 0.47), (200, 50, 50) if style else (50, 90, 190), 0.06)


def _house(pen: Pen, c: RGB, style: int, part: str) -> None:
    roof = (150, 70, 56) if c != COLOURS["red"] else (84, 78, 92)
    pen.box(0.68, 0.04, 0.8, 0.3, shade(roof, 0.75))
    pen.box(0.08, 0.4, 0.92, 1.0, c)
    pen.polygon((0.0, 0.44, 0.5, 0.0, 1.0, 0.44), roof)
    pen.polygon((0.0, 0.44, 0.06, 0.38, 0.94, 0.38, 1.0, 0.44), shade(roof, 0.75))
    door = shade(c, 0.5) if sum(c) > 330 else (240, 226, 196)
    x = 0.42 if style else 0.2
    pen.box(x, 0.66, x + 0.17, 1.0, door, 0.02)
    pen.ellipse(x + 0.12, 0.82, x + 0.15, 0.85, (240, 200, 80))
    for x in (0.16, 0.66) if style else (0.48, 0.7):
        pen.box(x, 0.54, x + 0.17, 0.72, (250, 250, 248))
        pen.box(x + 0.02, 0.56, x + 0.15, 0.7, (162, 204, 228))
        pen.line((x + 0.085, 0.56, x + 0.085, 0.7), (250, 250, 248), 0.012)
    if style:
        pen.ellipse(0.43, 0.18, 0.57, 0.31, (162, 204, 228))


def _kite(pen: Pen, c: RGB, style: int, part: str) -> None:
    pen.line((0.5, 0.66, 0.42, 0.76, 0.56, 0.86, 0.5, 1.0), (90, 86, 92), 0.025)
    for x, y in ((0.43, 0.76), (0.55, 0.86)):
        pen.polygon((x - 0.12, y - 0.03, x - 0.12, y + 0.04, x, y), shade(c, 0.8))
        pen.polygon((x + 0.12, y - 0.03, x + 0.12, y + 0.04, x, y), shade(c, 0.8))
    pen.polygon((0.5, 0.0, 1.0, 0.26, 0.5, 0.68, 0.0, 0.26), c)
    light = shade(c, 1.5) if c != COLOURS["white"] else shade(c, 0.8)
    pen.polygon((0.5, 0.0, 1.0, 0.26, 0.5, 0.26), light)
    pen.polygon((0.0, 0.26, 0.5, 0.26, 0.5, 0.68), light if style else shade(c, 0.8))
    pen.line((0.5, 0.0, 0.5, 0.68), shade(c, 0.55), 0.02)
    pen.line((0.0, 0.26, 1.0, 0.26), shade(c, 0.55), 0.02)


def _lamp(pen: Pen, c: RGB, style: int, part: str) -> None:
    metal = (110, 104, 104)
    pen.box(0.46, 0.36, 0.54, 0.95, metal)
    pen.ellipse(0.18, 0.92, 0.82, 1.0, shade(metal, 0.75))
    pen.ellipse(0.4, 0.32, 0.6, 0.43, (255, 240, 180))
    if style:
        pen.slice(0.0, 0.0, 1.0, 0.76, 180, 360, c)
        pen.box(0.0, 0.34, 1.0, 0.39, shade(c, 0.78))
    else:
        pen.polygon((0.26, 0.0, 0.74, 0.0, 1.0, 0.38, 0.0, 0.38), c)
        pen.polygon((0.02, 0.35, 0.98, 0.35, 1.0, 0.39, 0.0, 0.39), shade(c, 0.75))
        pen.polygon((0.36, 0.03, 0.46, 0.03, 0.4, 0.33, 0.22, 0.33), shade(c, 1.4))


def _person(pen: Pen, c: RGB, style: int, part: str) -> None:
    skin, hair = _SKIN[sum(c) % 2], _HAIR[(sum(c) // 2) % 2]
    legs = (70, 78, 104) if c not in (COLOURS["black"], COLOURS["blue"]) else (158, 140, 112)
    if style:  # a woman in a dress
        pen.ellipse(0.24, 0.0, 0.76, 0.3, hair)
        pen.box(0.24, 0.12, 0.76, 0.33, hair, 0.1)
        for x in (0.34, 0.52):
            pen.box(x, 0.76, x + 0.13, 0.96, skin)
            pen.box(x - 0.02, 0.95, x + 0.17, 1.0, (90, 50, 60), 0.06)
        pen.line((0.3, 0.37, 0.12, 0.58), skin, 0.13)
        pen.line((0.7, 0.37, 0.88, 0.58), skin, 0.13)
        pen.polygon((0.32, 0.29, 0.68, 0.29, 0.64, 0.5, 0.92, 0.82, 0.08, 0.82, 0.36, 0.5), c)
        pen.line((0.37, 0.5, 0.63, 0.5), shade(c, 0.65), 0.06)
        pen.line((0.3, 0.36, 0.24, 0.43), c, 0.16)
        pen.line((0.7, 0.36, 0.76, 0.43), c, 0.16)
    else:  # a man in a coat
        for x in (0.3, 0.52):
            pen.box(x, 0.6, x + 0.18, 0.97, legs)
            pen.box(x - 0.02, 0.95, x + 0.2, 1.0, (60, 46, 40), 0.06)
        pen.line((0.24, 0.36, 0.12, 0.58), c, 0.18)
        pen.line((0.76, 0.36, 0.88, 0.58), c, 0.18)
        pen.ellipse(0.04, 0.58, 0.2, 0.65, skin)
        pen.ellipse(0.8, 0.58, 0.96, 0.65, skin)
        pen.box(0.22, 0.29, 0.78, 0.66, c, 0.12)
        pen.line((0.5, 0.31, 0.5, 0.65), shade(c, 0.66), 0.03)
    pen.box(0.43, 0.22, 0.57, 0.31, shade(skin, 0.9))
    pen.ellipse(0.28, 0.03, 0.72, 0.26, skin)
    pen.slice(0.26, 0.0, 0.74, 0.24, 180, 360, hair)
    for x in (0.4, 0.56):
        pen.ellipse(x, 0.13, x + 0.06, 0.155, _INK)
    pen.line((0.43, 0.205, 0.57, 0.205), (170, 80, 80), 0.03)


def _table(pen: Pen, c: RGB, style: int, part: str) -> None:
    dark = shade(c, 0.7) if sum(c) > 200 else shade(c, 1.18)
    for x in (0.12, 0.8):
        pen.box(x, 0.14, x + 0.05, 0.9, shade(dark, 0.8))
    for x in (0.03, 0.9):
        pen.box(x, 0.14, x + 0.07, 1.0, dark)
    pen.polygon((0.06, 0.0, 0.94, 0.0, 1.0, 0.13, 0.0, 0.13), shade(c, 1.25))
    pen.box(0.0, 0.13, 1.0, 0.23, c)
    if style:
        pen.box(0.1, 0.23, 0.9, 0.31, shade(c, 0.82))
        pen.ellipse(0.48, 0.25, 0.52, 0.29, (240, 214, 140))


def _tree(pen: Pen, c: RGB, style: int, part: str) -> None:
    pen.polygon((0.44, 0.5, 0.56, 0.5, 0.6, 1.0, 0.4, 1.0), _WOOD)
    if style:
        for n, (top, wide) in enumerate(((0.34, 0.5), (0.17, 0.4), (0.0, 0.29))):
            tone = shade(c, 0.82 + 0.09 * n)
            pen.polygon((0.5, top, 0.5 + wide, top + 0.3, 0.5 - wide, top + 0.3), tone)
        return
    pen.line((0.5, 0.7, 0.66, 0.52), _WOOD, 0.05)
    back = ((0.25, 0.42, 0.25, 0.86), (0.75, 0.42, 0.25, 0.86), (0.5, 0.46, 0.26, 0.8))
    front = ((0.34, 0.24, 0.26, 1.0), (0.67, 0.25, 0.26, 1.0), (0.5, 0.19, 0.25, 1.12))
    for x, y, r, light in back + front:
        pen.ellipse(x - r, y - 0.73 * r, x + r, y + 0.73 * r, shade(c, light))
    for n in range(14):
        a = n * 2.4
        x, y = 0.5 + 0.35 * math.sqrt(n / 14) * math.cos(a), 0.3 + 0.2 * math.sin(a) * n / 14
        pen.ellipse(x - 0.03, y - 0.018, x + 0.03, y + 0.018, shade(c, 1.22))


_DRAW = {
    draw.__name__[1:]: draw  # label -> function
    for draw in (
        *(_ball, _basket, _bird, _boat, _box, _car, _cat, _cone, _dog),
        *(_house, _kite, _lamp, _person, _table, _tree),
    )
}


def draw_object(pen: Pen, label: str, colour: str, style: int, part: str = "whole") -> None:
    """Draw an object over the whole image.

    Args:
        pen: draws on the image.
        label, colour: names in ``LABELS`` and ``COLOURS``.
        style: 0 or 1.
        part: ``whole``, or ``back`` and ``front`` of an object that contains another.
    """
    _DRAW[label](pen, COLOURS[colour], style, part)
