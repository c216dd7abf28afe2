"""Decoding of image files: upright RGB arrays, at reduced size where a network needs no more.

Every decoding error becomes an ``ImageError`` with the path and the reason, so that a build can
skip the image. What says nothing about the bytes (a missing file, an I/O error, no memory) becomes
an ``UnreadableImage``, which no build skips.

Networks take inputs of a few hundred pixels, photos have thousands. A network states by how much
an image may be averaged down before the network's own resizing; a JPEG is then decoded at 1/2, 1/4
or 1/8 of its size, which saves most of the work. The reduced image depends only on the file and
the factor, never on earlier calls.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from features.decoding import (
    DAMAGE,
    TooManyPixels,
    decode,
    of_the_system,
    orientation,
    turned,
    upright_size,
)
from features.errors import ImageError, UnreadableImage
from features.tar_files import read_member, stamp

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")

MAX_PIXELS = 178_956_970  # half a gigabyte of RGB; 20,000 x 8,900 pixels are still allowed
STRIP_PIXELS = 1 << 20  # converted at a time, so that no mode needs several times the memory of RGB
WHITE = (255, 255, 255, 255)


@dataclass(slots=True, eq=False)
class LazyImage:
    """One image for detectors and feature extractors; its pixels are decoded on first use.

    Attributes:
        image_id: id of the image.
        pixels: (H, W, 3) uint8 RGB once decoded, else None.
        size: (width, height) in pixels, (0, 0) where unknown.
        computed: network outputs by name, shared by the steps that run the same network.
        path: file to decode; None for images given as pixels and for those without a file.
        data: the bytes of the file if they have been read, else None.
    """

    image_id: str
    pixels: Pixels | None = None
    size: tuple[int, int] = (0, 0)
    computed: dict[str, object] = field(default_factory=dict)
    path: Path | None = None
    data: bytes | None = None
    _reduced: dict[int, Pixels] = field(default_factory=dict)

    @classmethod
    def from_pixels(cls, image_id: str, pixels: Pixels) -> LazyImage:
        """Make an image from (H, W, 3) uint8 RGB."""
        return cls(image_id, pixels, (pixels.shape[1], pixels.shape[0]))

    @classmethod
    def open(cls, image_id: str, path: Path | str, digest: str = "") -> LazyImage:
        """Read the header of an image file, or the whole file to check that it is the same one.

        Args:
            image_id: id of the image.   path: the file.
            digest: first digits of the sha256 that the file must have; "": any.

        Raises: ImageError: see ``read_size``. UnreadableImage: the file has another hash.
        """
        path = Path(path)
        data = _read_bytes(path) if digest else None
        if data is not None and not hashlib.sha256(data).hexdigest().startswith(digest):
            raise UnreadableImage(
                f"{path}: the file has changed since the build was planned. Run the build again."
            )
        return cls(image_id, size=read_size(path, data=data), path=path, data=data)

    def rgb(self) -> Pixels:
        """Return all pixels, (H, W, 3) uint8.

        Raises: ImageError: the image has no file, or the file is damaged.
        """
        if self.pixels is None:
            if self.path is None:
                raise ImageError(f"{self.image_id}: pixels are needed. Pass the images folder.")
            self.pixels = read_image(self.path, data=self.data)
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
                self._reduced[factor] = read_image(self.path, factor=factor, data=self.data)
            else:
                self._reduced[factor] = _averaged(self.rgb(), factor)
        return self._reduced[factor], factor


def read_image(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, factor: int = 1, data: bytes | None = None
) -> Pixels:
    """Decode an image file: upright by its EXIF tag, first frame, transparency on white.

    16-bit and float grey values are scaled to 0..255; CMYK, palette and bilevel images become RGB.
    The format is detected from the file's content, not its extension.

    Args:
        path: the file.
        max_pixels: larger images are refused before they are decoded.
        factor: a power of two: average factor x factor pixels into one. A JPEG is decoded at a
            fraction of its size, which differs from the exact mean by a few levels.
        data: the bytes of the file if they have been read.

    Returns:
        (ceil(H / factor), ceil(W / factor), 3) uint8 RGB, writable and contiguous.

    Raises:
        ImageError: the file is empty, not an image, damaged, truncated or too large.
        UnreadableImage: it is missing or cannot be read now, or the memory does not suffice.
    """

    def upright(image: Image.Image) -> Pixels:
        done = _draft(image, factor)
        image.load()
        pixels = turned(np.array(_to_rgb(image)), orientation(image))
        return _averaged(pixels, factor // done) if factor > done else pixels

    return _opened(Path(path), max_pixels, data, upright)


def read_size(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, data: bytes | None = None
) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation; reads only the header.

    Raises: ImageError: see ``read_image``; damage behind the header is not detected.
    """
    return _opened(Path(path), max_pixels, data, upright_size)


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


def _read_bytes(path: Path) -> bytes:
    """Return the bytes of a file. Raises: UnreadableImage: it cannot be read."""
    try:
        member = read_member(path)
        return path.read_bytes() if member is None else member
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | MemoryError) -> UnreadableImage:
    """Return the error for a file that cannot be read now."""
    if isinstance(error, FileNotFoundError):
        return UnreadableImage(f"{path}: no such file. Check the images folder.")
    reason = "out of memory" if isinstance(error, MemoryError) else error.strerror or str(error)
    return UnreadableImage(
        f"{path}: cannot be read ({reason}). Check the disk, its permissions and the memory, then "
        "run again."
    )


def _opened(path: Path, max_pixels: int, data: bytes | None, use: Callable[[Image.Image], T]) -> T:
    """Return what ``use`` makes of an image file; raise every failure as ``ImageError``."""
    from PIL import UnidentifiedImageError  # loads Pillow

    def checked(image: Image.Image) -> T:
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"{path}: {image.width} x {image.height} pixels exceed the limit of "
                f"{max_pixels:,}. Scale the image down."
            )
        return use(image)

    try:
        # Pillow's own size warning is silenced: max_pixels is checked above.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode(path if data is None else data, checked)
    except ImageError:
        raise
    except TooManyPixels as error:
        raise ImageError(
            f"{path}: exceeds the limit of {max_pixels:,} pixels. Scale the image down."
        ) from error
    except UnidentifiedImageError as error:
        empty = not (stamp(path).st_size if data is None else data)
        reason = "the file is empty" if empty else "not an image that Scenestore reads"
        raise ImageError(f"{path}: {reason}. Replace or remove the file.") from error
    except MemoryError as error:
        raise _unreadable(path, error) from error
    except DAMAGE as error:
        if isinstance(error, OSError) and of_the_system(error):
            raise _unreadable(path, error) from error
        raise ImageError(f"{path}: damaged ({error}). Replace or remove the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; deep grey levels are rescaled, transparency is put on white."""
    from PIL import Image  # loads Pillow

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        brightest = max(float(_levels(strip).max(initial=0)) for _, strip in _strips(image))
        top = max(65535.0, brightest)
        if not image.mode.startswith("I;16") and brightest <= 255:
            top = 1.0 if image.mode == "F" and brightest <= 1 else 255.0
        made = Image.new("RGB", image.size)
        for row, strip in _strips(image):
            scaled = np.clip(_levels(strip) * (255.0 / top), 0, 255).round().astype(np.uint8)
            made.paste(Image.fromarray(scaled).convert("RGB"), (0, row))
        return made
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        made = Image.new("RGB", image.size)
        for row, strip in _strips(image):
            cutout = strip.convert("RGBA")
            ground = Image.new("RGBA", cutout.size, WHITE)
            made.paste(Image.alpha_composite(ground, cutout).convert("RGB"), (0, row))
        return made
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the image in strips of whole rows: the first row of each, and the strip."""
    rows = max(1, STRIP_PIXELS // max(image.width, 1))
    for row in range(0, image.height, rows):
        yield row, image.crop((0, row, image.width, min(row + rows, image.height)))


def _levels(grey: Image.Image) -> npt.NDArray[np.float64]:
    """Return the levels of a deep grey image; what is not finite is black."""
    levels = np.asarray(grey, dtype=np.float64)
    return np.where(np.isfinite(levels), levels, 0.0)
