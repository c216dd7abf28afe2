"""Drawings of scene graphs on their images."""

from features.drawing.scene_graph import COLOURS, Strongest, draw_graph, draw_image, strongest

__all__ = ["COLOURS", "Strongest", "draw_graph", "draw_image", "strongest"]
