"""The folder of photos beside an import: find the photo of an image and read its size."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from features.convert.safe.inputs import need_folder, visible
from features.convert.source import id_forms
from features.decoding import DAMAGE, decode, upright_size
from features.errors import ImageError, InputError, MissingInput
from features.names import child, fold
from features.records import Detections, ImageEntry


class Photos:
    """A folder of photos.

    A photo is looked up under the image's file name, then under its id, then under any form of
    the id that ``id_forms`` gives: without a suffix, or COCO's number.

    Args:
        folder: the photos.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = need_folder(folder)

    @functools.cached_property
    def _by_form(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in visible(self.folder, "*"):
            for form in dict.fromkeys(map(fold, id_forms(path.name))):
                found.setdefault(form, []).append(path)
        return found

    def find(self, entry: ImageEntry) -> Path:
        """Return the photo of an image.

        Raises:
            MissingInput: there is none.
            InputError: several photos match, or the name leads out of the folder.
        """
        plain = [child(self.folder, name) for name in dict.fromkeys((entry.file, entry.id)) if name]
        for path in plain:
            if path.is_file():
                return path
        forms = id_forms(entry.id)
        near = dict.fromkeys(path for form in forms for path in self._by_form.get(fold(form), ()))
        found = [path for path in near if path.is_file()]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(
                f"{self.folder}: image {entry.id!r} matches {names}. Remove all but one of them."
            )
        if not found:
            raise MissingInput(
                f"{self.folder}: there is no photo of image {entry.id!r}. Check --images-dir."
            )
        return found[0]

    def stamp(self, entry: ImageEntry) -> tuple[str, int]:
        """Return name and bytes of an image's photo, for the keys; -1 if there is none."""
        try:
            path = self.find(entry)
            return path.name, path.stat().st_size
        except (InputError, MissingInput, OSError):
            return entry.id, -1

    def sized(self, found: Detections, entry: ImageEntry) -> Detections:
        """Add the size of the image from its photo, after EXIF rotation, and clip the boxes to it.

        Raises: MissingInput, InputError: as ``find``. ImageError: not an image file.
        """
        path = self.find(entry)
        try:
            width, height = decode(path, upright_size)
        except DAMAGE as error:
            raise ImageError(f"{path}: cannot be read as an image ({error}).") from error
        limit = np.asarray([width, height, width, height], np.float32)
        boxes = np.minimum(found.boxes, limit)
        return dataclasses.replace(found, boxes=boxes, size=(width, height))
