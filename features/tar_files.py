"""Photos inside tar files, addressed like files in a folder: ``out/00000.tar/000000001.jpg``.

webdataset keeps photos so. A tar is read through an index of its members, which is made once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import IO

__all__ = ["check_end", "read_member", "stamp", "tar_members"]


def tar_members(path: Path) -> list[str]:
    """Return the names of the regular files in a tar, in its order; [] if it is damaged.

    Hidden files, and names that lead out of the tar, are left out.
    """
    try:
        status = path.stat()
        return list(_index(str(path), status.st_size, status.st_mtime_ns))
    except (OSError, tarfile.TarError, ValueError, EOFError):
        return []


def read_member(path: Path) -> bytes | None:
    """Return the bytes of a file inside a tar; None if no parent of the path is a tar.

    Raises:
        FileNotFoundError: the tar has no such file.
        OSError: the tar cannot be read; or the path is a pipe or a device, which could block the
            reader or never end.
    """
    tar = _tar_of(path)
    if tar is None:
        with contextlib.suppress(FileNotFoundError):
            mode = path.stat().st_mode
            if not (S_ISREG(mode) or S_ISDIR(mode)):
                raise OSError(errno.ENODEV, "a pipe or a device, not a file", str(path))
        return None
    status = tar.stat()
    try:
        index = _index(str(tar), status.st_size, status.st_mtime_ns)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise FileNotFoundError(2, f"a damaged tar ({error})", str(path)) from error
    place = index.get(path.relative_to(tar).as_posix())
    if place is None:
        raise FileNotFoundError(2, "no such file in the tar", str(path))
    with tar.open("rb") as file:
        file.seek(place[0])
        return file.read(place[1])


def stamp(path: Path) -> os.stat_result:
    """Return the status of a file, or of the tar that it is in.

    Raises: OSError: there is neither.
    """
    tar = _tar_of(path)
    return path.stat() if tar is None else tar.stat()


def _tar_of(path: Path) -> Path | None:
    """Return the tar that a file is in, None for a plain path."""
    if ".tar" not in str(path).lower():
        return None
    parents = (parent for parent in path.parents if parent.name.lower().endswith(".tar"))
    return next((parent for parent in parents if parent.is_file()), None)


@lru_cache(maxsize=64)
def _index(path: str, _size: int, _changed: int) -> dict[str, tuple[int, int]]:
    """Return name -> first byte and number of bytes of every file in a tar."""
    found: dict[str, tuple[int, int]] = {}
    with Path(path).open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            hidden = any(part.startswith(".") for part in name.parts)  # .. leads out
            if member.isreg() and not hidden and not name.is_absolute():
                found[name.as_posix()] = (member.offset_data, member.size)
        check_end(archive, file)
    return found


def check_end(archive: tarfile.TarFile, file: IO[bytes]) -> None:
    """Check that a tar whose members have all been listed has an end.

    ``tarfile`` takes a header that is cut or damaged for the end of the tar.

    Raises: tarfile.ReadError: members are missing.
    """
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        last = archive.getnames()[-1:] or ["its start"]
        raise tarfile.ReadError(f"cut or damaged after {last[0]}")
