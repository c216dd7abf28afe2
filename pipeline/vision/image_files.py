"""Where the pictures of a data set lie: one folder, or one folder per split as COCO ships them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError, MissingInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from features.records import ImageEntry

__all__ = ["ImageFolder", "describe_missing", "keep_available", "keep_covered"]

SHOWN = 5  # missing images named in a message; the rest are counted


class ImageFolder:
    """The picture files of a folder and of the folders directly in it, listed once.

    Args:
        root: for example ``flickr30k-images``, or COCO's folder with ``train2014`` and ``val2014``.

    Raises: MissingInput: there is no such folder, or it cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: set[str] = set()
        self._by_name: dict[str, str] = {}
        try:
            self._list(root, "")
        except OSError as error:
            message = f"{root}: cannot list this images folder ({error.strerror})"
            raise MissingInput(f"{message}. Check --images-dir.") from error

    def _list(self, folder: Path, prefix: str) -> None:
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda entry: entry.name):
                if item.is_dir():
                    if not prefix:
                        self._list(folder / item.name, f"{item.name}/")
                else:
                    self._paths.add(prefix + item.name)
                    self._by_name.setdefault(item.name, prefix + item.name)

    def __len__(self) -> int:
        """Return the number of files seen."""
        return len(self._paths)

    def find(self, entry: ImageEntry) -> str | None:
        """Return the entry's file relative to the root, or None when it is not on disk."""
        if entry.file in self._paths:
            return entry.file
        return self._by_name.get(entry.file.rsplit("/", 1)[-1])


def keep_available(
    entries: Iterable[ImageEntry], folder: ImageFolder, *, on_error: str
) -> tuple[list[ImageEntry], list[str]]:
    """Split a data set into the images that are on disk and the names of those that are not.

    Args:
        entries: images as the captions file lists them.
        folder: the pictures on disk.
        on_error: ``fail`` raises when any is missing, ``skip`` goes on without it.

    Returns:
        the entries on disk, ``file`` set to where they lie, and the ids of the others.

    Raises: InputError: images are missing and on_error is ``fail``, or none is left.
    """
    kept: list[ImageEntry] = []
    missing: list[str] = []
    for entry in entries:
        file = folder.find(entry)
        if file is None:
            missing.append(entry.id)
        else:
            kept.append(replace(entry, file=file))
    if missing and on_error == "fail":
        message = f"{folder.root}: {describe_missing(missing)}"
        raise InputError(f"{message}. Add the files, or build without them: --on-error skip.")
    if not kept:
        raise InputError(
            f"{folder.root}: none of the {len(missing)} images that the captions list is here "
            f"({len(folder)} other files are). Check --images-dir and --captions."
        )
    return kept, missing


def keep_covered(
    entries: Iterable[ImageEntry],
    covers: Callable[[str], bool],
    folder: ImageFolder | None,
    *,
    on_error: str,
) -> tuple[list[ImageEntry], list[str]]:
    """Split a data set into the images that a precomputed detector knows and those it does not.

    Args:
        entries: images as the captions file lists them.
        covers: True for the ids that the detector's file has.
        folder: pictures on disk, where there are any; ``file`` is set to where a picture lies.
        on_error: ``fail`` raises when any image is not covered, ``skip`` goes on without it.

    Raises: InputError: images are not covered and on_error is ``fail``, or none is.
    """
    kept: list[ImageEntry] = []
    unknown: list[str] = []
    for entry in entries:
        if covers(entry.id):
            file = folder.find(entry) if folder is not None else None
            kept.append(replace(entry, file=file or entry.file))
        else:
            unknown.append(entry.id)
    if unknown and (on_error == "fail" or not kept):
        names = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        message = (
            f"{len(unknown):,} of {len(unknown) + len(kept):,} images have no detections: {names}"
        )
        advice = "Build without them: --on-error skip." if kept else "Check --detections."
        raise InputError(f"{message}. {advice}")
    return kept, unknown


def describe_missing(missing: list[str]) -> str:
    """Return one line that counts the missing images and names the first few.

    >>> describe_missing(["a.jpg", "b.jpg"])
    '2 images that the captions list are missing on disk: a.jpg, b.jpg'
    """
    names = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    count = f"{len(missing):,} image" + ("s" if len(missing) != 1 else "")
    verb = "are" if len(missing) != 1 else "is"
    return f"{count} that the captions list {verb} missing on disk: {names}"
