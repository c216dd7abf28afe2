"""Open image files with the decoders that are meant for photos, and no others.

Pillow chooses a decoder by a file's content, whatever its name, and some of its decoders are not
for files from strangers: that for EPS starts Ghostscript. Metadata that cannot be read (EXIF,
texts, colour profiles) are never a reason to lose a picture.
"""

from __future__ import annotations

import errno
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import ScenestoreError
from features.tar_files import read_member

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "DAMAGE",
    "FORMATS",
    "SUFFIXES",
    "TooManyPixels",
    "decode",
    "of_the_system",
    "open_image",
    "orientation",
    "turned",
    "upright_size",
]

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")

DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, EOFError)
DAMAGE += (KeyError, IndexError, OverflowError, NotImplementedError, struct.error, zlib.error)
"""Exceptions that Pillow's decoders raise on damaged files."""

SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
SUFFIXES += (".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif")
"""Suffixes of photos, in lower case."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
"""Pillow's names of the formats that are read; JPEG includes MPO. None starts a process."""


_ORIENTATION = 0x0112
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_ADOBE_BYTES = 16
_WEBP_DROPPED = (b"EXIF", b"XMP ", b"ICCP")


class TooManyPixels(ValueError):
    """An image has more pixels than Pillow opens."""


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Open an image and read its header, as ``PIL.Image.open``.

    Raises: PIL.UnidentifiedImageError: none of ``FORMATS``. OSError: the file cannot be read.
    """
    from PIL import Image  # loads Pillow

    return Image.open(source, formats=FORMATS)


def decode(source: Path | bytes, use: Callable[[Image.Image], T]) -> T:
    """Open an image and return what a function makes of it.

    Where metadata stop the decoder, the image is opened again without them, so ``use`` can be
    called twice.

    Raises: as ``use``; one of ``DAMAGE``: the image is damaged, cannot be read, or is too large.
    """

    def once(raw: Path | bytes) -> T:
        with open_image(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as image:
            return use(image)

    from PIL import Image  # loads Pillow

    if isinstance(source, Path):
        source = read_member(source) or source
    try:
        return once(source)
    except Image.DecompressionBombError as error:
        raise TooManyPixels(str(error)) from error
    except DAMAGE as error:
        if isinstance(error, ScenestoreError) or of_the_system(error):
            raise
        bare = _without_metadata(source if isinstance(source, bytes) else source.read_bytes())
        if bare is None:
            raise
        try:
            return once(bare)
        except DAMAGE as again:
            # what is wrong with the file as it is
            raise (again if isinstance(again, ScenestoreError) else error) from None


def of_the_system(error: BaseException) -> bool:
    """Return whether an error is the operating system's; Pillow's own OSErrors have no number."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if there is none or it cannot be read."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself, and states the size of the turned image
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # getexif would: EXIF may stand after the pixels; damaged pixels are errors
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1
    known = isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= 8
    return int(found) if known else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an opened image after EXIF rotation."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def turned(pixels: Pixels, how: int) -> Pixels:
    """Return (H, W, ...) pixels upright, given the EXIF orientation."""
    quarter = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(how, 0)  # anticlockwise
    found = np.rot90(pixels, quarter)
    if how in (2, 4):
        found = found[:, ::-1]
    elif how in (5, 7):
        found = found[::-1]
    return np.ascontiguousarray(found)


def _without_metadata(raw: bytes) -> bytes | None:
    """Return a PNG, JPEG or WebP file without texts, profiles and EXIF; None for other files."""
    if raw.startswith(_PNG):
        return _bare_png(raw)
    if raw.startswith(_JPEG):
        return _bare_jpeg(raw)
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return _bare_webp(raw)
    return None


def _bare_png(raw: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        kind, end = raw[at + 4 : at + 8], at + 12 + size
        if kind in _PNG_KEPT:
            kept.append(raw[at:end])
        at = end
    return b"".join(kept)


def _bare_jpeg(raw: bytes) -> bytes:
    kept, at = [_JPEG], 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xDA:  # the pixels follow
            break
        end = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        # Adobe's marker says how colours are coded, if it is whole
        metadata = 0xE0 <= marker <= 0xEF and (marker != 0xEE or end - at < _ADOBE_BYTES)
        if not metadata and marker != 0xFE:
            kept.append(raw[at:end])
        at = end
    return b"".join([*kept, raw[at:]])


def _bare_webp(raw: bytes) -> bytes:
    kept, at = [], 12
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "little")
        kind, end = raw[at : at + 4], at + 8 + size + size % 2
        if kind == b"VP8X":  # its flags announce the chunks that are left out
            kept.append(raw[at : at + 8] + bytes([raw[at + 8] & ~0x2C]) + raw[at + 9 : end])
        elif kind not in _WEBP_DROPPED:
            kept.append(raw[at:end])
        at = end
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
