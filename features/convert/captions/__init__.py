"""Captions of a data set: every layout becomes the same list of images with captions.

Builds and imports read captions here; ``docs/importing.md`` lists the layouts.
"""

from features.convert.captions.cleaning import NO_SPLIT, clean_text
from features.convert.captions.collection import CaptionSet, check_entries
from features.convert.captions.kept import KeptCaptions
from features.convert.captions.reading import caption_files, read_captions
from features.convert.captions.splitting import Shares, parse_shares

__all__ = [
    "NO_SPLIT",
    "CaptionSet",
    "KeptCaptions",
    "Shares",
    "caption_files",
    "check_entries",
    "clean_text",
    "parse_shares",
    "read_captions",
]
