"""Files and folders that a user names; whatever the system refuses is one clear error.

A file can be missing, a folder, unreadable, or fail while it is read; readers open files here only,
so that each of these is a MissingInput with the file and the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from features.errors import InputError, MissingInput, ScenestoreError

__all__ = ["BOM", "child", "need_file", "need_folder", "opened", "read_bytes", "read_text"]

BOM = b"\xef\xbb\xbf"  # what Windows editors put before UTF-8


@contextlib.contextmanager
def opened(path: Path | str, *, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a file for reading bytes.

    Raises: MissingInput: it is not there, a folder, or the system does not let us read it.
    """
    path = Path(path)
    with _refusals(path):
        if not path.is_file():
            what = "is a folder, a file is needed" if path.is_dir() else "there is no such file"
            raise MissingInput(f"{path}: {what}. Check the path.")
        with path.open("rb", buffering=buffering) as file:
            yield file


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except ScenestoreError:  # some are OSErrors, too
        raise
    except OSError as error:
        raise MissingInput(
            f"{path}: cannot be read ({error.strerror or error}). Check permissions and disk."
        ) from error


def need_file(path: Path | str) -> Path:
    """Return the path of a file that must exist and be readable.

    Raises: MissingInput: it is not, or it is a folder.
    """
    with opened(path, buffering=0):
        return Path(path)


def need_folder(path: Path | str) -> Path:
    """Return the path of a folder that must exist and be readable.

    Raises: MissingInput: it is not, or it is a file.
    """
    path = Path(path)
    with _refusals(path):
        if not path.is_dir():
            what = "is a file, a folder is needed" if path.exists() else "there is no such folder"
            raise MissingInput(f"{path}: {what}. Check the path.")
        next(path.iterdir(), None)  # glob would find nothing in a folder that may not be listed
    return path


def read_bytes(path: Path | str) -> bytes:
    """Return what a file holds.

    Raises: MissingInput: it cannot be read.
    """
    with opened(path) as file:
        return file.read()


def read_text(path: Path | str) -> str:
    """Return the UTF-8 text of a file without its byte order mark.

    Raises: MissingInput: it cannot be read. InputError: it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}).") from error


def child(folder: Path, name: str, where: object = "") -> Path:
    """Return the path of ``name`` inside ``folder``, for names that come out of a file.

    Links that the user made inside the folder are followed: they are not the file's doing.

    Raises: InputError: the name is empty, absolute or has ``..``.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    drive = name[1:2] == ":"
    if not name or "\0" in name or parts.is_absolute() or ".." in parts.parts or drive:
        raise InputError(f"{where or folder}: the name {name!r} leads out of {folder}. Remove it.")
    return folder / parts
