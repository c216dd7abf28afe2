"""Detectors that come with the package, one file each; importing this registers them all."""

from pipeline.detectors import nanodet, precomputed

__all__ = ["nanodet", "precomputed"]
