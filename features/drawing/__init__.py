"""Drawings of scene graphs on their images, and thumbnails."""

from features.drawing.arcs import arcs_svg
from features.drawing.choice import (
    Fact,
    Strongest,
    covers_image,
    facts,
    numbered,
    strongest,
    whole_image,
)
from features.drawing.kinds import KINDS, with_kinds
from features.drawing.routes import end_points
from features.drawing.scene_graph import draw_graph, draw_image
from features.drawing.thumbnails import Thumbnails
from features.inline import COLOURS

__all__ = [
    "COLOURS",
    "KINDS",
    "Fact",
    "Strongest",
    "Thumbnails",
    "arcs_svg",
    "covers_image",
    "draw_graph",
    "draw_image",
    "end_points",
    "facts",
    "numbered",
    "strongest",
    "whole_image",
    "with_kinds",
]
