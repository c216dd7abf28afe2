"""Pictures as they are found in the wild, decoded to one form: RGB bytes, upright, first frame.

Every way in which a file can be broken ends in one ImageError with the path and the reason, so that
a build can count the picture as skipped and go on.
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

__all__ = ["MAX_PIXELS", "Picture", "read_image", "read_size"]

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
        pixels: (H, W, 3) uint8 RGB, or None where nobody needs pixels.
        size: (width, height), (0, 0) where unknown.
        computed: network outputs by name, so that two steps share one pass over the picture.
    """

    image_id: str
    pixels: npt.NDArray[np.uint8] | None
    size: tuple[int, int] = (0, 0)
    computed: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, image_id: str, pixels: npt.NDArray[np.uint8]) -> Picture:
        """Build a picture from its pixels, (H, W, 3) uint8 RGB."""
        return cls(image_id, pixels, (pixels.shape[1], pixels.shape[0]))

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Return the pixels.

        Raises: ImageError: the picture was opened without them.
        """
        if self.pixels is None:
            raise ImageError(f"{self.image_id}: pixels are needed here; give the images folder.")
        return self.pixels


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode a picture: upright by its EXIF tag, first frame, transparency on white.

    16-bit and float grey values are scaled to 0..255; CMYK, palette and two-level pictures become
    RGB. The file's content decides about its format, not its extension.

    Args:
        path: the file.
        max_pixels: pictures with more pixels are refused before they are decoded.

    Returns:
        (H, W, 3) uint8 RGB, writable and contiguous.

    Raises: ImageError: not there, empty, no picture, damaged, truncated or too large.
    """
    from PIL import ImageOps

    with _opened(Path(path), max_pixels) as image:
        image.load()
        return np.array(_to_rgb(ImageOps.exif_transpose(image)))


def read_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation from the file's header alone.

    Raises: ImageError: as ``read_image``, but damage behind the header goes unnoticed.
    """
    with _opened(Path(path), max_pixels) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else (image.width, image.height)


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
