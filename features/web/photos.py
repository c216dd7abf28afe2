"""Photos of a store as small JPEG files, made when they are asked for."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from features.decoding import DAMAGE, decode, orientation, turned
from features.names import bad_file

__all__ = ["SIDES", "Photos", "small_jpeg"]

SIDES = (360, 1400)  # pixels of the longer side: in the grid, on the page of an image
KEPT = 48 << 20  # bytes of JPEG files that are kept
AT_ONCE = 4  # photos that are decoded at a time; each needs the memory of its pixels


class Photos:
    """The photos in a folder.

    Args:
        folder: the folder; None if there is none.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._decoding = threading.BoundedSemaphore(AT_ONCE)

    def has(self, file: str) -> bool:
        """Return whether there is such a file; names that lead out of the folder are refused."""
        return self.folder is not None and not bad_file(file) and (self.folder / file).is_file()

    def jpeg(self, file: str, side: int) -> bytes:
        """Return a photo with its longer side at most ``side`` pixels, b"" if it is unreadable.

        Args:
            file: name from the store, which can come from others; never a part of a URL.
            side: one of ``SIDES``.
        """
        if self.folder is None or bad_file(file):
            return b""
        key = (file, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._decoding:
            made = small_jpeg(self.folder / file, side)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += len(made)
            while self._size > KEPT and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return made


def small_jpeg(source: Path | bytes, side: int) -> bytes:
    """Return an image with its longer side at most ``side`` pixels, b"" if it is unreadable.

    Args:
        source: a file or its contents, in one of ``features.decoding.FORMATS``.
        side: in pixels.
    """
    from PIL import Image  # loads Pillow

    def upright(opened: Image.Image) -> Image.Image:
        opened.draft("RGB", (side, side))
        small = opened.convert("RGB")
        how = orientation(opened)
        small.thumbnail((side, side), Image.Resampling.BICUBIC)
        return Image.fromarray(turned(np.array(small), how)) if how != 1 else small

    try:
        image = decode(source, upright)
    except DAMAGE:
        return b""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
