"""Atomic files: a reader sees the whole new file or the old one, never a part.

A writer fills ``NAME.HOST-PID-RANDOM.partial``; ``replacing`` flushes it to disk and renames it.
``sweep`` deletes partial files whose writer has died. Sealed JSON documents end with a hash of
their own bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from features.errors import DamagedError, FormatError, NewerFormatError, StoreError, WriteError
from features.format.keys import canonical_json
from features.format.schema import FORMAT_NAME, FORMAT_VERSION

_PARTIAL = re.compile(r"\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{8}\.partial$")
_SEAL = re.compile(rb',"seal":"([0-9a-f]{64})"\}\n')
_STALE_SECONDS = 24 * 3600.0
_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space and run again.",
    errno.EDQUOT: "The disk quota is exceeded: free some space and run again.",
    errno.EFBIG: "The file exceeds the file size limit: raise the limit and run again.",
    errno.EACCES: "Permission denied: choose a folder with write permission.",
    errno.EPERM: "Permission denied: choose a folder with write permission.",
    errno.EROFS: "The file system is read-only: choose another folder.",
}


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a WriteError that names the path and says what to do."""
    try:
        yield
    except StoreError:
        raise  # already names the file
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = _ADVICE.get(error.errno or 0, "Check the folder and run again.")
        kept = "The earlier contents are unchanged."
        raise WriteError(f"{path}: cannot be written ({reason}). {advice} {kept}") from error


_READ_ADVICE = {
    errno.EACCES: "Ask its owner for permission to read it.",
    errno.EPERM: "Ask its owner for permission to read it.",
    errno.EMFILE: "Too many files are open: raise `ulimit -n`.",
    errno.ENFILE: "Too many files are open on this machine: run again later.",
    errno.ENOMEM: "Out of memory: run again with more.",
}


def unreadable(path: Path, error: OSError, kept: str = "Nothing was changed.") -> StoreError:
    """Return the error for a file that cannot be read; it need not be damaged.

    Args:
        path: the file.   error: the operating system's error.   kept: end of the message.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = _READ_ADVICE.get(error.errno or 0, "Check the disk or network and run again.")
    return StoreError(f"{path}: cannot be read ({reason}). {advice} {kept}")


def partial_path(path: Path) -> Path:
    """Return a name beside ``path`` that is unique to this writer."""
    return path.with_name(f"{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def _host() -> str:
    """Return a name for the scope of process ids: this boot of this host, this PID namespace.

    Containers may share a host name without seeing each other's processes.
    """
    scope = hashlib.sha256()
    with contextlib.suppress(OSError):  # no /proc: no namespaces either
        scope.update(Path("/proc/sys/kernel/random/boot_id").read_bytes())
        scope.update(str(Path("/proc/self/ns/pid").stat().st_ino).encode())
    name = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())
    return f"{name}-{scope.hexdigest()[:8]}"


def publish(partial: Path, path: Path, *, read_only: bool = True) -> None:
    """Flush a finished partial file to disk and rename it to ``path``."""
    sync_file(partial)
    if read_only:
        partial.chmod(0o444)
    partial.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path, *, read_only: bool = False) -> Iterator[Path]:
    """Write a file atomically: yield a partial path to fill, then rename it to ``path``.

    The folder is created when missing. If the block raises, the partial file is deleted and
    ``path`` keeps its earlier contents.

    Args:
        path: the file to create or replace.
        read_only: remove write permission from the finished file.

    Raises: WriteError: an ``OSError`` while writing, or ``path`` is a device or a pipe, which a
        file would replace; the message names ``path``.
    """
    with write_errors(path):
        refuse_device(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        try:
            yield partial
            publish(partial, path, read_only=read_only)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def refuse_device(path: Path) -> None:
    """Raise WriteError for a device or a pipe: renaming a file to its name would replace it."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise WriteError(f"{path}: a device or a pipe, not a file. Name a file to write.")


def sync_file(path: Path) -> None:
    """Flush the contents of a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a file descriptor at the end of a block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the renames in a folder to disk, where the file system supports it."""
    opened = closing(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    with opened as descriptor, contextlib.suppress(OSError):
        os.fsync(descriptor)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder while files in it are replaced; released when the process dies.

    On a file system without such locks the block runs without one. Two builders then write the
    same bytes, because equal keys mean equal contents.
    """
    import fcntl

    with closing(os.open(folder, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def writer_alive(path: Path) -> bool | None:
    """Return whether the process that writes a partial file runs.

    None: it belongs to another machine, container or boot, whose processes cannot be seen here.
    """
    match = _PARTIAL.search(path.name)
    return _alive(int(match["pid"])) if match and match["host"] == _host() else None


def sweep(folder: Path) -> list[Path]:
    """Delete the partial files of processes that have died; return their paths.

    Those of another machine, container or boot are deleted once they have not been written to
    for a day, by the clock of the file system: that of this machine may be wrong.
    """
    swept = []
    for path in sorted(folder.glob("*.partial")) if folder.is_dir() else []:
        try:
            alive = writer_alive(path)
            if alive is None:
                alive = time_of(folder) - path.stat().st_mtime < _STALE_SECONDS
            if not alive:
                path.unlink()
                swept.append(path)
        except FileNotFoundError:
            continue  # another process swept it
        except OSError as error:
            raise WriteError(f"{path}: cannot be deleted ({error.strerror}).") from error
    return swept


def time_of(folder: Path) -> float:
    """Return the time by the clock that stamps the files of a folder; ours may be wrong."""
    probe = partial_path(folder / "now")
    try:
        with probe.open("xb"):
            return probe.stat().st_mtime
    except OSError:
        return time.time()  # nothing can be deleted there either
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Return True if a process is running; a zombie is not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, IndexError):
        return True  # another user's process, or a system without /proc
    return state != "Z"


def write_sealed(path: Path, document: Mapping[str, object]) -> None:
    """Write a JSON document atomically, with a hash of its own bytes.

    The file is canonical JSON; its last key is ``seal``, the sha256 of all bytes before it.

    Raises: WriteError: disk full, permission denied.
    """
    body = canonical_json(
        {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **document}
    ).encode("utf-8", "surrogatepass")[:-1]
    seal = hashlib.sha256(body).hexdigest()
    with replacing(path, read_only=True) as partial:
        partial.write_bytes(body + b',"seal":"%s"}\n' % seal.encode())


def read_sealed(path: Path, kind: str) -> dict[str, object]:
    """Read a sealed JSON document.

    Args:
        path: the file.
        kind: expected kind: ``store``, ``group``, ``shard``, ``latest`` or ``codebook``.

    Raises:
        FormatError: no such file, or another kind of file.
        NewerFormatError: a newer release wrote it.
        StoreError: the operating system cannot read it.
        DamagedError: its bytes differ from what was written.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}). Is it a store?") from error
    except OSError as error:
        raise unreadable(path, error) from error
    body, sealed = raw[:-76], _SEAL.fullmatch(raw[-76:])
    whole = sealed is not None and hashlib.sha256(body).hexdigest().encode() == sealed[1]
    try:
        document = json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
        raise DamagedError(f"{path}: not a Scenestore {kind} file, or damaged. {_REPAIR}")
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path}: format version {version}, but this release reads versions up to "
            f"{FORMAT_VERSION}. Install a newer scenestore."
        )
    if not whole or version != FORMAT_VERSION:
        raise DamagedError(f"{path}: the bytes differ from what was written. {_REPAIR}")
    if document.get("kind") != kind:
        raise FormatError(f"{path}: a {document.get('kind')!r} file, expected {kind!r}.")
    return document


_REPAIR = "Check it: python -m features verify --repair STORE, then build again."
