"""Read a store: checked files, columns and rows, graphs and tables."""

from features.reading.columns import CodedColumn
from features.reading.fork_locks import fork_safe_lock
from features.reading.graphs import scene_graph, text_graph
from features.reading.group_reader import GroupReader
from features.reading.ragged import flat_rows, pad
from features.reading.reader import StoreReader
from features.reading.remote import Mirror, push_store, url_of
from features.reading.row_copy import aligned_empty
from features.reading.tables import CAPTION_TABLES, IMAGE_TABLES, captions_table, images_table

__all__ = [
    "CAPTION_TABLES",
    "IMAGE_TABLES",
    "CodedColumn",
    "GroupReader",
    "Mirror",
    "StoreReader",
    "aligned_empty",
    "captions_table",
    "flat_rows",
    "fork_safe_lock",
    "images_table",
    "pad",
    "push_store",
    "scene_graph",
    "text_graph",
    "url_of",
]
