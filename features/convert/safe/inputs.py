"""Files and folders that a user names; whatever the system refuses is one clear error.

A file can be missing, a folder, unreadable, or fail while it is read; readers open files here only,
so that each of these is a MissingInput with the file and the reason.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from features.errors import InputError, MissingInput, ScenestoreError

__all__ = ["BOM", "child", "need_file", "need_folder", "opened", "read_bytes", "read_text"]

_MAX_UNPACKED = 1 << 30  # bytes of an unpacked text file; COCO's captions have 144 MB
_MAX_RATIO = 100  # JSON of captions shrinks to a fifth, a gzip bomb to a thousandth
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
    """Return the UTF-8 text of a plain or gzipped file without its byte order mark.

    Raises:
        MissingInput: the file cannot be read.
        InputError: it is not UTF-8, a damaged gzip file, or unpacks to far more than text does.
    """
    raw = _unpacked(Path(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text at byte {error.start} ({error.reason})."
        ) from error


def _unpacked(path: Path) -> bytes:
    """Return the bytes of a plain or gzipped file; a gzip bomb is read up to its limit only."""
    with opened(path) as file:
        head = file.read(2)
        if head != b"\x1f\x8b" and path.suffix != ".gz":
            return head + file.read()
        file.seek(0)
        limit = min(_MAX_UNPACKED, max(1 << 26, _MAX_RATIO * path.stat().st_size))
        try:
            with gzip.GzipFile(fileobj=file) as packed:
                raw = packed.read(limit + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: damaged gzip file ({error}). Fetch it again.") from error
    if len(raw) > limit:
        raise InputError(
            f"{path}: unpacks to more than {limit:,} bytes, which no text file of this kind does. "
            "If it is one, unpack it first."
        )
    return raw


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
