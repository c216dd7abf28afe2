"""The feature store: records, the format on disk, reading a store and making batches of it.

Start with ``open_store(path)``; ``docs/format.md`` describes the contents of the files. The
exported names are imported when they are first used, so that commands start fast.
"""

from typing import TYPE_CHECKING

from features.registry import lazy_exports

if TYPE_CHECKING:
    from features.errors import ScenestoreError
    from features.finding import find
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
    "find",
    "open_store",
]

_RECORDS = ("Caption", "Detections", "ImageEntry", "SceneGraph", "Skipped", "TextGraph")
__getattr__ = lazy_exports(
    __name__,
    {
        **dict.fromkeys(_RECORDS, "features.records"),
        "Codebook": "features.vocab",
        "ScenestoreError": "features.errors",
        "Store": "features.store",
        "build_store": "features.format",
        "find": "features.finding",
        "open_store": "features.store",
    },
)
