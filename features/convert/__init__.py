"""Other people's formats: importers into a store and exporters out of it, one file per format.

``python -m features import FORMAT SOURCE --store-dir DIR`` and ``python -m features export FORMAT
STORE OUT``; ``docs/importing.md`` describes the formats. Nothing heavy is loaded until one is used.
"""

from features.convert.commands import (
    add_export_arguments,
    add_import_arguments,
    run_export,
    run_import,
)
from features.convert.formats import IMPORT_FORMATS, open_source
from features.convert.source import Source

__all__ = [
    "IMPORT_FORMATS",
    "Source",
    "add_export_arguments",
    "add_import_arguments",
    "open_source",
    "run_export",
    "run_import",
]
