"""Open files and folders that a user names.

A file can be missing, a folder, unreadable, or fail while it is read. Readers open files only
here, so that each of these is a ``MissingInput`` with the path and the reason; text that cannot be
decoded is an ``InputError``.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from features.errors import InputError, MissingInput, ScenestoreError

BOM = b"\xef\xbb\xbf"  # Windows editors put it before UTF-8 text
_MAX_UNPACKED = 1 << 30  # bytes of an unpacked text file; COCO's captions have 144 MB
_MAX_LINE = 1 << 24
_MAX_RATIO = 30  # gzip shrinks captions in JSON to a fifth, a gzip bomb to a thousandth


@contextlib.contextmanager
def opened(path: Path | str, *, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a file for reading bytes."""
    path = Path(path)
    with _read_errors(path):
        if not path.is_file():
            what = "is a folder, a file is needed" if path.is_dir() else "there is no such file"
            raise MissingInput(f"{path}: {what}. Check the path.")
        with path.open("rb", buffering=buffering) as file:
            yield file


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ScenestoreError:  # some are OSErrors, too
        raise
    except OSError as error:
        raise MissingInput(
            f"{path}: cannot be read ({error.strerror or error}). Check permissions and disk."
        ) from error


@contextlib.contextmanager
def damaged(what: str, *errors: type[Exception], advice: str = "") -> Iterator[None]:
    """Turn the errors that a parser raises for bad data into an InputError with the reason."""
    try:
        yield
    except ScenestoreError:
        raise
    except errors as error:
        raise InputError(f"{what} ({error}). {advice}".rstrip()) from error


def need_file(path: Path | str) -> Path:
    """Return the path of a readable file."""
    with opened(path, buffering=0):
        return Path(path)


def need_folder(path: Path | str) -> Path:
    """Return the path of a readable folder."""
    path = Path(path)
    with _read_errors(path):
        if not path.is_dir():
            what = "is a file, a folder is needed" if path.exists() else "there is no such folder"
            raise MissingInput(f"{path}: {what}. Check the path.")
        next(path.iterdir(), None)  # glob finds nothing, silently, in a folder it cannot list
    return path


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern, sorted, without hidden ones.

    macOS leaves a file ``._1.xml`` beside ``1.xml`` on foreign disks and in archives.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def read_bytes(path: Path | str) -> bytes:
    """Return the contents of a file."""
    with opened(path) as file:
        return file.read()


def read_text(path: Path | str) -> str:
    """Return the UTF-8 text of a plain or gzipped file without its byte order mark."""
    raw = _unpacked(Path(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text at byte {error.start} ({error.reason})."
        ) from error


def text_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a plain or gzipped text file with their numbers, from 1.

    The byte order mark is left out. A gzip file may unpack to at most 30 times its size, and a line
    may have 16 MiB, so that memory stays bounded.

    Raises: InputError: a limit is exceeded, the file is UTF-16, or its gzip stream is damaged.
    """
    path = Path(path)
    broken = (EOFError, zlib.error, gzip.BadGzipFile)
    with (
        opened(path) as file,
        damaged(f"{path}: damaged gzip file", *broken, advice="Fetch it again."),
    ):
        packed = _is_gzip(path, file.read(2))
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if packed else file
        limit = max(1 << 26, _MAX_RATIO * path.stat().st_size)
        for number in itertools.count(1):
            line = stream.readline(_MAX_LINE + 1)
            if not line:
                return
            if len(line) > _MAX_LINE:
                raise InputError(f"{path}, line {number}: longer than {_MAX_LINE:,} bytes.")
            limit -= len(line)
            if packed and limit < 0:
                raise InputError(
                    f"{path}: unpacks to more than {_MAX_RATIO} times its size. If it is the right "
                    "file, unpack it first."
                )
            if number == 1:
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise InputError(f"{path}: UTF-16 text. Save it as UTF-8.")
                line = line.removeprefix(BOM)
            yield number, line


def _is_gzip(path: Path, head: bytes) -> bool:
    """Return whether a file is gzipped; browsers unpack some and leave them the name."""
    plain = head.isascii() and head.decode("ascii").isprintable()
    return head == b"\x1f\x8b" or (path.suffix == ".gz" and not plain and head != BOM[:2])


def _unpacked(path: Path) -> bytes:
    """Return the bytes of a plain or gzipped file; a gzip bomb is read only up to a limit."""
    with opened(path) as file:
        head = file.read(2)
        if not _is_gzip(path, head):
            return head + file.read()
        file.seek(0)
        limit = min(_MAX_UNPACKED, max(1 << 26, _MAX_RATIO * path.stat().st_size))
        broken = (EOFError, zlib.error, gzip.BadGzipFile)
        with (
            damaged(f"{path}: damaged gzip file", *broken, advice="Fetch it again."),
            gzip.GzipFile(fileobj=file) as packed,
        ):
            raw = packed.read(limit + 1)
    if len(raw) > limit:
        raise InputError(
            f"{path}: unpacks to more than {limit:,} bytes, too much for a text file of this size. "
            "If it is one, unpack it first."
        )
    return raw


def split_lines(text: str) -> list[str]:
    r"""Split a text at its line ends, unlike ``str.splitlines`` not at other control characters.

    >>> split_lines("a\x0bdog\r\na cat\n")
    ['a\x0bdog', 'a cat']
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_names(path: Path | str, *, background: str | None = None) -> tuple[str, ...]:
    """Read a list of class names, one per line (``name,alias`` keeps the name).

    Args:
        path: text file.
        background: name to put before the list, for files whose ids start at 1.
    """
    lines = split_lines(read_text(path))
    names = tuple(line.split(",")[0].strip() for line in lines if line.strip())
    return names if background is None else (background, *names)
