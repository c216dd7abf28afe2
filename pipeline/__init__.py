"""Compute scene graphs, region features and text graphs of images and captions.

``pipeline.parse`` and ``pipeline.detect`` are functions; the modules of the same names hold them.
"""

# Imported first, so that the functions shadow the modules of the same names for good.
from pipeline.detect import detect
from pipeline.parse import parse

__all__ = ["detect", "parse"]
