"""The feature store: records, the format on disk, reading a store and making batches of it.

Start with ``open_store(path)``; ``docs/format.md`` describes the contents of the files.
"""

from features.errors import ScenestoreError
from features.format import build_store
from features.records import Caption, Detections, ImageEntry, SceneGraph, Skipped, TextGraph
from features.store import Store, open_store
from features.vocab import Codebook

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
