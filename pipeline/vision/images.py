"""Decoding of image files: upright RGB arrays, at reduced size where a network needs no more.

Every decoding error becomes an ``ImageError`` with the path and the reason, so that a build can
skip the image.

Networks take inputs of a few hundred pixels, photos have thousands. A network states by how much
an image may be averaged down before the network's own resizing; a JPEG is then decoded at 1/2, 1/4
or 1/8 of its size, which saves most of the work. The reduced image depends only on the file and
the factor, never on earlier calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.errors import ImageError
from features.photos import MAX_PIXELS, orientation, turned, upright_size, with_photo

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

WHITE = (255, 255, 255, 255)
_BAND = 1 << 22  # pixels that are converted at once


@dataclass(slots=True, eq=False)
class LazyImage:
    """One image for detectors and feature extractors; its pixels are decoded on first use.

    Attributes:
        image_id: id of the image.
        pixels: (H, W, 3) uint8 RGB once decoded, else None.
        size: (width, height) in pixels, (0, 0) where unknown.
        computed: network outputs by name, shared by the steps that run the same network.
        path: file to decode; None for images given as pixels and for those without a file.
    """

    image_id: str
    pixels: Pixels | None = None
    size: tuple[int, int] = (0, 0)
    computed: dict[str, object] = field(default_factory=dict)
    path: Path | None = None
    _reduced: dict[int, Pixels] = field(default_factory=dict)

    @classmethod
    def from_pixels(cls, image_id: str, pixels: Pixels) -> LazyImage:
        """Make an image from (H, W, 3) uint8 RGB."""
        return cls(image_id, pixels, (pixels.shape[1], pixels.shape[0]))

    @classmethod
    def open(cls, image_id: str, path: Path | str) -> LazyImage:
        """Read the header of an image file.

        Raises: ImageError: see ``read_size``.
        """
        return cls(image_id, size=read_size(path), path=Path(path))

    def rgb(self) -> Pixels:
        """Return all pixels, (H, W, 3) uint8.

        Raises: ImageError: the image has no file, or the file is damaged.
        """
        if self.pixels is None:
            if self.path is None:
                raise ImageError(f"{self.image_id}: pixels are needed. Pass the images folder.")
            self.pixels = read_image(self.path)
        return self.pixels

    def reduced(self, limit: float) -> tuple[Pixels, int]:
        """Return the image averaged down by a power of two, for callers that resize it further.

        Args:
            limit: the factor is the largest power of two up to this, at least 1.

        Returns:
            (ceil(H / factor), ceil(W / factor), 3) uint8 RGB and the factor. Each pixel is the mean
            of factor x factor pixels, counted from the top left corner.

        Raises: ImageError: see ``rgb``.
        """
        factor = 1 << max(int(limit), 1).bit_length() - 1
        if factor == 1:
            return self.rgb(), 1
        if factor not in self._reduced:
            if self.path is not None:
                self._reduced[factor] = read_image(self.path, factor=factor)
            else:
                self._reduced[factor] = _averaged(self.rgb(), factor)
        return self._reduced[factor], factor


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS, factor: int = 1) -> Pixels:
    """Decode an image file: upright by its EXIF tag, first frame, transparency on white.

    16-bit and float grey values are scaled to 0..255; CMYK, palette and bilevel images become RGB.
    The format is detected from the file's content, not its extension.

    Args:
        path: the file.
        max_pixels: larger images are refused before they are decoded.
        factor: a power of two: average factor x factor pixels into one. A JPEG is decoded at a
            fraction of its size, which differs from the exact mean by a few levels.

    Returns:
        (ceil(H / factor), ceil(W / factor), 3) uint8 RGB, writable and contiguous.

    Raises: ImageError: the file is missing, empty, not an image, damaged, truncated or too large.
    """

    def decode(image: Image.Image) -> Pixels:
        done = _draft(image, factor)
        image.load()
        pixels = turned(_to_rgb(image), orientation(image))
        return _averaged(pixels, factor // done) if factor > done else pixels

    return with_photo(Path(path), decode, max_pixels=max_pixels)


def read_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation; reads only the header.

    Raises: ImageError: see ``read_image``; damage behind the header is not detected.
    """
    return with_photo(Path(path), upright_size, max_pixels=max_pixels)


def _draft(image: Image.Image, factor: int) -> int:
    """Ask the JPEG decoder to scale down by up to ``factor``; return the factor it will use."""
    width, height = image.size
    # Incomplete blocks are at the right and bottom of the file; rotation would move them to the
    # top or left and shift all others.
    if factor == 1 or (orientation(image) != 1 and (width % factor or height % factor)):
        return 1
    box = image.draft(image.mode, (max(1, width // factor), max(1, height // factor)))
    return 1 if box is None else round(width / box[1][2])


def _averaged(pixels: Pixels, factor: int) -> Pixels:
    """Average factor x factor pixels into one; blocks at the right and bottom may be smaller."""
    from PIL import Image  # loads Pillow

    return np.array(Image.fromarray(pixels).reduce(factor))


def _to_rgb(image: Image.Image) -> Pixels:
    """Convert a decoded image of any mode to (H, W, 3) RGB, some rows at a time.

    A conversion needs several copies with up to 8 bytes a pixel; of the whole image they would
    take many times the memory that the limit of pixels allows for.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    width, height = image.size
    step = max(1, _BAND // max(width, 1))
    bands = [(top, min(top + step, height)) for top in range(0, height, step)]

    def rows(top: int, bottom: int) -> Image.Image:
        return image.crop((0, top, width, bottom))

    white = 0.0
    if image.mode in ("I", "F"):
        white = max((_finite(rows(*band)).max(initial=0) for band in bands), default=0.0)
        if white <= 255:
            white = 1.0 if image.mode == "F" and white <= 1 else 255.0
        else:
            white = max(65535.0, white)
    elif image.mode.startswith("I;16"):
        white = 65535.0
    pixels = np.empty((height, width, 3), np.uint8)
    for top, bottom in bands:
        pixels[top:bottom] = _band_to_rgb(rows(top, bottom), white)
    return pixels


def _finite(image: Image.Image) -> npt.NDArray[np.float64]:
    grey = np.asarray(image, dtype=np.float64)
    return np.where(np.isfinite(grey), grey, 0.0)


def _band_to_rgb(image: Image.Image, white: float) -> npt.NDArray[np.uint8]:
    """Convert some rows; deep grey levels up to ``white`` are rescaled, cutouts put on white."""
    from PIL import Image  # loads Pillow

    if white:
        scaled = np.clip(_finite(image) * (255.0 / white), 0, 255).round().astype(np.uint8)
        return np.repeat(scaled[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        cutout = image.convert("RGBA")
        ground = Image.new("RGBA", cutout.size, WHITE)
        return np.asarray(Image.alpha_composite(ground, cutout).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
