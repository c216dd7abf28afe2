"""Open image files with the decoders that are meant for photos, and no others.

Pillow chooses a decoder by a file's content, whatever its name, and some of its decoders are not
for files from strangers: that for EPS starts Ghostscript.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMATS", "open_image"]

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
"""Pillow's names of the formats that are read; JPEG includes MPO. None starts a process."""


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Open an image and read its header, as ``PIL.Image.open``.

    Raises: PIL.UnidentifiedImageError: none of ``FORMATS``. OSError: the file cannot be read.
    """
    from PIL import Image  # loads Pillow

    return Image.open(source, formats=FORMATS)
