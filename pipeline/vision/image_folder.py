"""The image files of a data set: in one folder, or in folders below it as COCO ships them."""

from __future__ import annotations

import array
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from features.decoding import SUFFIXES
from features.errors import InputError, MissingInput
from features.names import base_name, fold, hidden, same_place
from features.records import ImageEntry, LazyImages
from features.tar_files import tar_members

SHOWN = 5  # missing images named in a message; the rest are counted


class ImageFolder:
    """The files in a folder and in all folders below it, listed once.

    Files and folders of systems are left out, such as macOS's ``._1.jpg``. A tar counts
    as a folder.

    Args:
        root: for example ``flickr30k-images``, or COCO's folder with ``train2014`` and ``val2014``.

    Raises: MissingInput: the folder does not exist or cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, int] = {}  # path -> position in the listing
        try:
            self._list(root, "", frozenset())
        except OSError as error:
            raise MissingInput(
                f"{root}: cannot list this images folder ({error.strerror}). Check --images-dir."
            ) from error

    def _list(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return  # a link to a folder that it is in
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda entry: entry.name):
                if hidden(item.name) or not _leads_somewhere(item):
                    continue
                if item.is_dir():
                    self._list(folder / item.name, f"{prefix}{item.name}/", above | {here})
                elif item.name.lower().endswith(".tar"):
                    for member in tar_members(folder / item.name):
                        self._add(f"{prefix}{item.name}/{member}")
                elif item.is_file():  # no pipe or device, which could block or never end
                    self._add(prefix + item.name)

    def _add(self, path: str) -> None:
        self._paths[path] = len(self._paths)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths by folded name, made when a file is not under its exact name."""
        found: dict[str, list[str]] = {}
        for path in self._paths:
            found.setdefault(fold(base_name(path)), []).append(path)
        return found

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def position(self, file: str) -> int:
        """Return the position of a file that ``find`` returned, at least 0, below the length."""
        return self._paths[file]

    def find(self, entry: ImageEntry) -> str | None:
        """Return the image's file relative to the root, or None when it is not on disk.

        A file with the exact name counts first. Then the file may lie in another folder, as long as
        its name does not say otherwise (``val/1.jpg`` is not ``train/1.jpg``), and its name may
        differ in upper case and Unicode form. A name without a suffix of images stands for any.

        Raises: InputError: several files fit.
        """
        if entry.file in self._paths:
            return entry.file
        name = base_name(entry.file)
        suffixes = ("",) if name.lower().endswith(SUFFIXES) else ("", *SUFFIXES)
        near = [
            path
            for suffix in suffixes
            for path in self._by_name.get(fold(name + suffix), ())
            if same_place(entry.file, path)
        ]
        exact = [path for path in near if path.rpartition("/")[2] == name]
        near = exact or near
        if len(near) > 1:
            raise InputError(
                f"{self.root}: image {entry.file!r} can be {near[0]!r} or {near[1]!r}. Name it "
                "with its folder in the captions file, or remove all but one of them."
            )
        return near[0] if near else None


def _leads_somewhere(item: os.DirEntry[str]) -> bool:
    """Return False for a link that leads to itself."""
    try:
        item.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise
    return True


class _Selection(LazyImages):
    """Some rows of a data set, some with another file; of a large set none is kept in memory."""

    def __init__(
        self, entries: Sequence[ImageEntry], rows: array.array[int], files: dict[int, str]
    ) -> None:
        self._entries, self._rows, self._files = entries, rows, files

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self, row: int) -> ImageEntry:
        at = self._rows[row]
        entry, file = self._entries[at], self._files.get(at)
        return entry if file is None else replace(entry, file=file)


def _select(
    entries: Sequence[ImageEntry], file_of: Callable[[ImageEntry], str | None]
) -> tuple[Sequence[ImageEntry], list[str]]:
    """Return the images that have a file, with this file, and the ids of the others."""
    rows, files, others = array.array("q"), dict[int, str](), list[str]()
    for row, entry in enumerate(entries):
        file = file_of(entry)
        if file is None:
            others.append(entry.id)
            continue
        rows.append(row)
        if file != entry.file:
            files[row] = file
    return (_Selection(entries, rows, files) if others or files else entries), others


def keep_available(
    entries: Sequence[ImageEntry], folder: ImageFolder, *, on_error: str
) -> tuple[Sequence[ImageEntry], list[str]]:
    """Split a data set into the images that are on disk and the ids of those that are not.

    Args:
        entries: images as the captions file lists them.
        folder: the image files.
        on_error: ``fail`` raises when an image is missing, ``skip`` leaves it out.

    Returns:
        the images on disk with ``file`` set to their path, and the ids of the others.

    Raises: InputError: images are missing or not to be told apart and on_error is ``fail``, or all
        are missing.
    """
    taken = bytearray(len(folder))  # by another image

    def file_of(entry: ImageEntry) -> str | None:
        try:
            file = folder.find(entry)
        except InputError:
            if on_error == "fail":
                raise
            return None
        if file is None:
            return None
        at = folder.position(file)
        if taken[at] and on_error == "fail":
            owner = next(other.id for other in entries if folder.find(other) == file)
            raise InputError(
                f"{folder.root}: {file} is the file of two images, {owner!r} and {entry.id!r}. "
                "Remove one of them from the captions file."
            )
        if taken[at]:
            return None
        taken[at] = True
        return file

    kept, missing = _select(entries, file_of)
    if missing and on_error == "fail":
        raise InputError(
            f"{folder.root}: {describe_missing(missing)}. Add the files, or pass --on-error skip."
        )
    if not kept:
        raise InputError(
            f"{folder.root}: none of the {len(missing)} images of the captions file is in this "
            f"folder, which has {len(folder)} other files. Check --images-dir and --captions."
        )
    return kept, missing


def keep_covered(
    entries: Sequence[ImageEntry],
    covers: Callable[[str], bool],
    folder: ImageFolder | None,
    *,
    on_error: str,
) -> tuple[Sequence[ImageEntry], list[str]]:
    """Split a data set into the images that a detector covers and the ids of the others.

    Args:
        entries: images as the captions file lists them.
        covers: ``Detector.covers``.
        folder: the image files, if any; sets ``file`` of the images that are found.
        on_error: ``fail`` raises when an image is not covered, ``skip`` leaves it out.

    Raises: InputError: images are not covered and on_error is ``fail``, or none is covered.
    """

    def file_of(entry: ImageEntry) -> str | None:
        if not covers(entry.id):
            return None
        return (folder.find(entry) if folder is not None else None) or entry.file

    kept, unknown = _select(entries, file_of)
    if unknown and (on_error == "fail" or not kept):
        advice = "Pass --on-error skip to leave them out." if kept else "Check --detections."
        raise InputError(
            f"{len(unknown):,} of {len(unknown) + len(kept):,} images have no detections: "
            f"{_some(unknown)}. {advice}"
        )
    return kept, unknown


def describe_missing(missing: list[str]) -> str:
    """Return a phrase that counts the missing images and names the first few.

    >>> describe_missing(["a.jpg", "b.jpg"])
    '2 images of the captions file are missing on disk: a.jpg, b.jpg'
    """
    images, verb = ("image", "is") if len(missing) == 1 else ("images", "are")
    count = f"{len(missing):,} {images} of the captions file"
    return f"{count} {verb} missing on disk: {_some(missing)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
