"""Formats of other projects: readers that import into a store, writers that export from it.

``docs/importing.md`` describes the formats. A reader or writer is loaded when it is used.
"""

from features.convert.captions import CaptionSet, caption_files, clean_text, read_captions
from features.convert.exporting import export_store
from features.convert.formats import EXPORT_FORMATS, IMPORT_FORMATS, open_source
from features.convert.importing import ImportReport, import_store
from features.convert.source import Source

__all__ = [
    "EXPORT_FORMATS",
    "IMPORT_FORMATS",
    "CaptionSet",
    "ImportReport",
    "Source",
    "caption_files",
    "clean_text",
    "export_store",
    "import_store",
    "open_source",
    "read_captions",
]
