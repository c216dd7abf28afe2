"""What is stored: records, the on-disk format, the opened store and its batches.

``open_store(path)`` is the way in; ``features.format.schema`` says what the files hold.
"""

from features.errors import ScenestoreError
from features.format.build import build_store
from features.records import Caption, Detections, ImageEntry, SceneGraph, Skipped, TextGraph
from features.store import Store, open_store
from features.vocab.codebook import Codebook

__all__ = [
    "Caption",
    "Codebook",
    "Detections",
    "ImageEntry",
    "SceneGraph",
    "ScenestoreError",
    "Skipped",
    "Store",
    "TextGraph",
    "build_store",
    "open_store",
]
