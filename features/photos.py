"""Open photos of strangers: a list of formats, a limit of pixels, and metadata that may be broken.

Every failure becomes an ``ImageError`` with the path and the reason. No decoder that starts another
program is ever asked (Pillow would give PostScript to Ghostscript).
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "orientation",
    "turned",
    "upright_size",
    "with_photo",
]

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # half a gigabyte of RGB; 20,000 x 8,900 pixels are still allowed
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SUFFIXES += (".ppm", ".pgm", ".pbm", ".jp2", ".avif")
# Exceptions, beside OSError, that Pillow's decoders raise on damaged files.
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, EOFError)
DAMAGE += (KeyError, IndexError, OverflowError, MemoryError, NotImplementedError)
DAMAGE += (struct.error, zlib.error)
_ORIENTATION = 0x0112
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_WEBP_DROPPED = (b"EXIF", b"XMP ", b"ICCP")


def with_photo(path: Path, use: Callable[[Image.Image], T], *, max_pixels: int = MAX_PIXELS) -> T:
    """Open an image file, check its size and return what a function makes of it.

    The format is detected from the file's content, not its extension. Where metadata stop the
    decoder, the file is opened again without them, so ``use`` can be called twice.

    Args:
        path: the file.
        use: called with the opened image; nothing is decoded yet.
        max_pixels: larger images are refused before they are decoded.

    Raises: ImageError: the file is missing, empty, not an image, damaged, truncated or too large.
    """
    from PIL import Image, UnidentifiedImageError  # loads Pillow

    def opened(source: Path | io.BytesIO) -> T:
        # Pillow's own size warning is silenced: max_pixels is checked below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_known()) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{path}: {image.width} x {image.height} pixels exceed the limit of "
                        f"{max_pixels:,}. Scale the image down."
                    )
                return use(image)

    try:
        try:
            return opened(path)
        except ImageError:
            raise
        except DAMAGE as error:
            bare = _without_metadata(path)
            if bare is None:
                raise
            try:
                return opened(io.BytesIO(bare))
            except ImageError:
                raise
            except DAMAGE:
                raise error from None  # the reason for the file as it is
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: exceeds the limit of {max_pixels:,} pixels. Scale the image down."
        ) from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else "not an image that Scenestore reads"
        raise ImageError(f"{path}: {reason}. Replace or remove the file.") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file. Check --images-dir.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}).") from error
    except DAMAGE as error:
        raise ImageError(f"{path}: damaged ({error}). Replace or remove the file.") from error


@functools.lru_cache(maxsize=1)
def _known() -> tuple[str, ...]:
    """Return the formats that this build of Pillow has, so that none of the others is tried."""
    from PIL import Image  # loads Pillow

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if there is none or it cannot be read."""
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


def _without_metadata(path: Path) -> bytes | None:
    """Return a PNG, JPEG or WebP file without texts, profiles and EXIF; None for other files."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
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
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
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
