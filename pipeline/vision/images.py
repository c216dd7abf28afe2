"""Pictures as they are found in the wild, decoded to one form: RGB bytes, upright, first frame.

Every way in which a file can be broken ends in one ImageError with the path and the reason, so that
a build can count the picture as skipped and go on.

Networks look at a few hundred pixels, cameras make thousands: a network says how far a picture may
be averaged down before it scales it, and a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size,
which leaves most of the work undone. What a network sees depends on the picture and on this network
alone, never on who looked before.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_PIXELS", "Picture", "Pixels", "read_image", "read_size"]

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # half a gigabyte of RGB; a photo of 20,000 x 8,900 still fits
WHITE = (255, 255, 255, 255)
# What Pillow's decoders raise on damaged files, beside OSError.
BROKEN: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, EOFError)
BROKEN += (KeyError, IndexError, OverflowError, MemoryError, NotImplementedError)
BROKEN += (struct.error, zlib.error)


@dataclass(slots=True, eq=False)
class Picture:
    """One picture on its way through detector, relations and feature extractor.

    Attributes:
        image_id: the image's id.
        pixels: (H, W, 3) uint8 RGB, or None where nobody needs pixels, or not yet.
        size: (width, height), (0, 0) where unknown.
        computed: network outputs by name, so that two steps share one pass over the picture.
        path: the file, decoded when somebody looks; None when there are pixels, or no picture.
    """

    image_id: str
    pixels: Pixels | None
    size: tuple[int, int] = (0, 0)
    computed: dict[str, object] = field(default_factory=dict)
    path: Path | None = None
    _reduced: dict[int, Pixels] = field(default_factory=dict)

    @classmethod
    def of(cls, image_id: str, pixels: Pixels) -> Picture:
        """Build a picture from its pixels, (H, W, 3) uint8 RGB."""
        return cls(image_id, pixels, (pixels.shape[1], pixels.shape[0]))

    @classmethod
    def opened(cls, image_id: str, path: Path | str) -> Picture:
        """Read the header of a file; its pixels are decoded when somebody looks at them.

        Raises: ImageError: as ``read_size``.
        """
        return cls(image_id, None, read_size(path), path=Path(path))

    def rgb(self) -> Pixels:
        """Return all pixels.

        Raises: ImageError: the picture was opened without them, or its file is damaged.
        """
        if self.pixels is None:
            if self.path is None:
                raise ImageError(
                    f"{self.image_id}: pixels are needed here; give the images folder."
                )
            self.pixels = read_image(self.path)
        return self.pixels

    def reduced(self, most: float) -> tuple[Pixels, int]:
        """Return the picture at 1/factor, averaged, for readers that scale it down further.

        Args:
            most: the factor is the largest power of two up to this, at least 1.

        Returns:
            (ceil(H / factor), ceil(W / factor), 3) uint8 RGB and the factor. A pixel stands for
            factor x factor pixels from the top left corner on.

        Raises: ImageError: as ``rgb``.
        """
        factor = 1
        while 2 * factor <= most:
            factor *= 2
        if factor == 1:
            return self.rgb(), 1
        if factor not in self._reduced:
            if self.path is not None:
                self._reduced[factor] = read_image(self.path, factor=factor)
            else:
                self._reduced[factor] = _averaged(self.rgb(), factor)
        return self._reduced[factor], factor


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS, factor: int = 1) -> Pixels:
    """Decode a picture: upright by its EXIF tag, first frame, transparency on white.

    16-bit and float grey values are scaled to 0..255; CMYK, palette and two-level pictures become
    RGB. The file's content decides about its format, not its extension.

    Args:
        path: the file.
        max_pixels: pictures with more pixels are refused before they are decoded.
        factor: a power of two: average so many pixels a side into one. A JPEG is decoded at a
            fraction of its size, which differs from the average by a few levels.

    Returns:
        (ceil(H / factor), ceil(W / factor), 3) uint8 RGB, writable and contiguous.

    Raises: ImageError: not there, empty, no picture, damaged, truncated or too large.
    """
    from PIL import ImageOps

    with _opened(Path(path), max_pixels) as image:
        done = _draft(image, factor)
        image.load()
        pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
        return _averaged(pixels, factor // done) if factor > done else pixels


def read_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation from the file's header alone.

    Raises: ImageError: as ``read_image``, but damage behind the header goes unnoticed.
    """
    with _opened(Path(path), max_pixels) as image:
        turned = _orientation(image) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else (image.width, image.height)


def _draft(image: Image.Image, factor: int) -> int:
    """Let a JPEG's decoder scale by up to ``factor``; return by how much it will."""
    width, height = image.size
    # Turned about, incomplete pixels at the right and bottom would come first and shift the rest.
    if factor == 1 or (_orientation(image) != 1 and (width % factor or height % factor)):
        return 1
    box = image.draft(image.mode, (max(1, width // factor), max(1, height // factor)))
    return 1 if box is None else round(width / box[1][2])


def _averaged(pixels: Pixels, factor: int) -> Pixels:
    """Average factor x factor pixels into one; at the right and bottom what is left of them."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).reduce(factor))


def _orientation(image: Image.Image) -> int:
    """Return how the camera was held, by the EXIF tag; 1 is upright."""
    return int(image.getexif().get(0x0112, 1))


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture, check its size, and turn whatever goes wrong into an ImageError."""
    from PIL import Image, UnidentifiedImageError

    try:
        # The limit is ours and checked below, so Pillow's own warning about it has no say.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{path}: {image.width} x {image.height} pixels are more than the limit of "
                        f"{max_pixels:,}. Scale the picture down."
                    )
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: more pixels than the limit of {max_pixels:,}. Scale the picture down."
        ) from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else "not a picture that Pillow can read"
        raise ImageError(f"{path}: {reason}. Replace or remove the file.") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file. Check the images folder.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}).") from error
    except BROKEN as error:
        raise ImageError(f"{path}: damaged ({error}). Replace or remove the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB without losing the range of deep greys or the shape of cut-outs."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        grey = np.where(np.isfinite(grey), grey, 0.0)
        brightest = float(grey.max(initial=0))
        top = max(65535.0, brightest)
        if not image.mode.startswith("I;16") and brightest <= 255:
            top = 1.0 if image.mode == "F" and brightest <= 1 else 255.0
        scaled = np.clip(grey * (255.0 / top), 0, 255).round().astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        cutout = image.convert("RGBA")
        ground = Image.new("RGBA", cutout.size, WHITE)
        return Image.alpha_composite(ground, cutout).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
