"""Formats of other projects: readers that import into a store, writers that export from it.

``docs/importing.md`` describes the formats. A reader or writer is loaded when it is used.
"""

from features.convert.captions import (
    CaptionSet,
    KeptCaptions,
    caption_files,
    clean_text,
    read_captions,
)
from features.convert.formats import (
    EXPORT_FORMATS,
    IMPORT_FORMATS,
    Format,
    export_store,
    open_source,
)
from features.convert.importing import ImportReport, import_store
from features.convert.readers.entities import EntitiesFolder, Phrase, Sentence
from features.convert.readers.scene_graphs import SceneGraphFile
from features.convert.safe.inputs import need_file, read_names
from features.convert.safe.json_files import read_json
from features.convert.safe.values import brief
from features.convert.source import Source, id_forms

__all__ = [
    "EXPORT_FORMATS",
    "IMPORT_FORMATS",
    "CaptionSet",
    "EntitiesFolder",
    "Format",
    "ImportReport",
    "KeptCaptions",
    "Phrase",
    "SceneGraphFile",
    "Sentence",
    "Source",
    "brief",
    "caption_files",
    "clean_text",
    "export_store",
    "id_forms",
    "import_store",
    "need_file",
    "open_source",
    "read_captions",
    "read_json",
    "read_names",
]
