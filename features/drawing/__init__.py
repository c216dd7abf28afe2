"""Drawings of scene graphs on their images."""
