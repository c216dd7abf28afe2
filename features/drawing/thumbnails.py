"""Small JPEG images for pages that hold everything they show."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np

from features.decoding import DAMAGE, decode, orientation, turned
from features.names import bad_file


class Thumbnails:
    """Small JPEG images as data URIs; each is made once.

    Args:
        folder: folder of the images; None: every thumbnail is empty.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._made: dict[tuple[str, int], str] = {}

    def data(self, file: str, side: int) -> str:
        """Return an image with its longer side at most ``side`` pixels, "" if it is unreadable.

        Stores can come from others: a file name that points outside the folder is refused.
        """
        if self._folder is None or bad_file(file):
            return ""
        if (file, side) not in self._made:
            self._made[file, side] = _embed(self._folder / file, side)
        return self._made[file, side]


def _embed(path: Path, side: int) -> str:
    from PIL import Image  # loads Pillow

    def upright(opened: Image.Image) -> Image.Image:
        opened.draft("RGB", (side, side))
        return Image.fromarray(turned(np.array(opened.convert("RGB")), orientation(opened)))

    try:
        image = decode(path, upright)
    except DAMAGE:
        return ""  # the page shows the id instead
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
