"""Drawings of scene graphs on their images, and thumbnails."""

from features.drawing.kinds import KINDS, with_kinds
from features.drawing.scene_graph import COLOURS, Strongest, draw_graph, draw_image, strongest
from features.drawing.thumbnails import Thumbnails

__all__ = [
    "COLOURS",
    "KINDS",
    "Strongest",
    "Thumbnails",
    "draw_graph",
    "draw_image",
    "strongest",
    "with_kinds",
]
