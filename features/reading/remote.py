"""Stores behind a URL: a local copy of what is read, compared with the hashes of the manifests.

A store manifest names the hash of every group, a group manifest the hash of every column: so a
local file is either what was pushed, or an error. Groups are fetched when they are first read, all
shards of one at a time. ``push_store`` uploads a store so that a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from features.errors import (
    DamagedError,
    FormatError,
    MissingDependency,
    NewerFormatError,
    ScenestoreError,
    StoreError,
)
from features.format import (
    GroupManifest,
    Shard,
    ShardRecord,
    hash_json,
    read_group,
    read_sealed,
    read_store_manifest,
    replacing,
    store_manifest_path,
)

__all__ = ["Mirror", "push_store", "url_of"]

THREADS = 8
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_CACHE = "SCENESTORE_CACHE"
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.+)")
_IN_PLACE = ("file", "local", "sftp", "ssh", "smb")  # an interrupted upload leaves a part


def url_of(path: str | Path) -> str:
    """Return the URL that a path stands for, "" for a local path.

    ``Path`` makes one slash of the two in a URL.

    >>> url_of("s3://bucket/store"), url_of(Path("s3://bucket/store")), url_of("stores/mine")
    ('s3://bucket/store', 's3://bucket/store', '')
    """
    found = _URL.fullmatch(str(path))
    if found is None or Path(path).exists():
        return ""
    protocol, rest = found.groups()
    return f"{protocol}://{'/' + rest.lstrip('/') if protocol == 'file' else rest}"


def cache_folder() -> Path:
    """Return the folder of local copies: ``$SCENESTORE_CACHE``, or ``~/.cache/scenestore``."""
    given = os.environ.get(_CACHE)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given) if given else Path(home).expanduser() / "scenestore"


@contextlib.contextmanager
def _errors(url: str, *, writes: bool = False) -> Iterator[None]:
    """Turn the errors of file systems and clouds into a StoreError that names the URL.

    Args:
        url: what is read or written.   writes: a full disk is that of the URL, not ours.
    """
    try:
        yield
    except ScenestoreError:
        raise
    except OSError as error:
        if error.errno in _LOCAL and not writes:
            raise  # of the disk that the copy is written to
        if not isinstance(error, FileNotFoundError):
            raise _unusable(url, error) from error
        raise StoreError(f"{url}: there is no such file or bucket. Check the URL.") from error
    except Exception as error:  # every file system has its own
        raise _unusable(url, error) from error


def _unusable(url: str, error: Exception) -> StoreError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return StoreError(f"{url}: {reason}. Check the URL, the credentials and the network.")


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it."""
    import fsspec  # loads a package that only URLs need

    protocol = url.partition("://")[0]
    try:
        with _errors(url):
            fs, root = fsspec.core.url_to_fs(url.rstrip("/"))
    except StoreError as error:
        if isinstance(error.__cause__, ImportError):
            package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}.get(protocol, "")
            extra = "'scenestore[s3]'" if protocol == "s3" else package or "fsspec[full]"
            raise MissingDependency.of(
                package or protocol, f"{protocol}:// URLs", f"pip install {extra}"
            ) from error
        raise
    return fs, root


class Mirror:
    """The local copy of a store behind a URL.

    Args:
        url: folder of the store, or one store manifest.
        cache: folder of all local copies; see ``cache_folder``.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        name = url.rstrip("/").rpartition("/")[2]
        self.manifest_name = name if name.endswith(".json") else ""
        self.url = url.rstrip("/").removesuffix(f"/{name}") if self.manifest_name else url
        self.url = self.url.rstrip("/")
        self.cache = cache or cache_folder()
        self.folder = self.cache / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._fs, self._root = _connect(self.url)

    def manifest(self) -> Path:
        """Fetch the store manifest, the latest one unless the URL names one; return its copy.

        Raises: StoreError: it cannot be read. DamagedError: it is not what was written.
        """
        name = self.manifest_name
        if not name:
            self._fetch("latest.json")
            with self._as_pushed("latest.json"):
                name = store_manifest_path(self.folder).name
        self._fetch(name)
        with self._as_pushed(name):
            read_store_manifest(self.folder / name)
        return self.folder / name

    def group(self, folder: str, digest: str) -> None:
        """Fetch the manifest of a group, unless its copy has the hash of the store manifest."""
        path = self.folder / folder / "manifest.json"
        with contextlib.suppress(StoreError):
            if read_group(path.parent).hash == digest:
                return
        name = f"{folder}/manifest.json"
        self._fetch(name)
        with self._as_pushed(name):
            read_group(path.parent)

    @contextlib.contextmanager
    def _as_pushed(self, name: str) -> Iterator[None]:
        """Name the URL of a file whose copy is damaged: repairing the copy would not help."""
        try:
            yield
        except NewerFormatError:
            raise
        except (DamagedError, FormatError) as error:
            problem = str(error).removeprefix(f"{self.folder / name}: ").split(". ")[0]
            raise type(error)(f"{self.url}/{name}: {problem}. {self._push_again}") from error

    @property
    def _push_again(self) -> str:
        return f"Push the store again: python -m features push --again STORE {self.url}"

    def shards(self, manifest: GroupManifest) -> None:
        """Fetch the shards of a group that have no copy, and compare them with the manifest.

        A copy is compared again after its size or time has changed.

        Raises: DamagedError: a file is not what was written. StoreError: it cannot be read.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda number: self._shard(manifest, number), range(len(manifest.rows))))

    def _shard(self, manifest: GroupManifest, number: int) -> None:
        shard, record = Shard(manifest.folder, number), manifest.record(number)
        name, compared = f"{manifest.folder.name}/{shard.path.name}", shard.path.with_suffix(".ok")
        problems = [("", "is missing")]
        for attempt in range(3):  # the copy, the file, and the file once more
            if attempt:
                self._fetch(name)
            if shard.has_size(record.size):
                with contextlib.suppress(OSError):
                    if not attempt and compared.read_text() == _stamp(shard.path, record):
                        return
                problems = list(shard.problems(record))
                if not problems:
                    with replacing(compared) as partial:
                        partial.write_text(_stamp(shard.path, record))
                    return
            elif attempt:
                problems = list(shard.problems(record))
        column, problem = problems[0]
        raise DamagedError(
            f"{self.url}/{name}: {repr(column) if column else 'the file'} {problem}. "
            f"{self._push_again}"
        )

    def _fetch(self, name: str) -> None:
        """Copy a file to its place in the cache."""
        target = self.folder / name
        with replacing(target, read_only=True) as partial, _errors(f"{self.url}/{name}"):
            self._fs.get_file(f"{self._root}/{name}", str(partial))


def _stamp(path: Path, record: ShardRecord) -> str:
    """Return a text that changes with the size and time of a file and with its expected bytes."""
    status = path.stat()
    contents = [record.rest, *sorted(part.sha256 for part in record.parts.values())]
    return hash_json([status.st_size, status.st_mtime_ns, contents])


def push_store(
    path: Path, url: str, *, again: bool = False, told: Callable[[str, int], None] | None = None
) -> tuple[int, int]:
    """Upload a store: shards, then the manifests of its groups, then the store manifest.

    Files that are there with the right size are not uploaded again, unless ``again`` is set: their
    names contain the key of their contents.

    Args:
        path: folder of the store (its latest manifest is used) or a store manifest.
        url: folder to write to.
        again: also upload files that are there; they may be damaged.
        told: called with every file and its size.

    Returns: the number of files that were uploaded, and their bytes.

    Raises:
        DamagedError: a local file differs from what was written; nothing refers to it then.
        StoreError: the URL cannot be written.
    """
    manifest_path = store_manifest_path(path)
    document = read_store_manifest(manifest_path)
    folder = manifest_path.parent
    fs, root = _connect(url)
    sent = [0, 0]

    def send(local: Path, *, always: bool = False) -> None:
        name = local.relative_to(folder).as_posix()
        target, size = f"{root}/{name}", local.stat().st_size
        with _errors(f"{url}/{name}", writes=True):
            known = not again and not always and fs.exists(target)
            if known and fs.size(target) == size:
                return
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            if fs.protocol in _IN_PLACE or set(fs.protocol) & set(_IN_PLACE):
                fs.put_file(str(local), f"{target}.partial")
                fs.mv(f"{target}.partial", target)
            else:
                fs.put_file(str(local), target)
        sent[0] += 1
        sent[1] += size
        if told is not None:
            told(name, size)

    for entry in document["groups"].values():
        group = read_group(folder / entry["folder"])

        def send_shard(number: int, group: GroupManifest = group) -> None:
            shard = Shard(group.folder, number)
            shard.check(group.record(number))
            send(shard.path)
            if shard.sidecar.exists():
                send(shard.sidecar)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(send_shard, range(len(group.rows))))
        send(group.path, always=True)
    send(manifest_path, always=True)
    latest = folder / "latest.json"
    if latest.exists() and read_sealed(latest, "latest")["manifest"] == manifest_path.name:
        send(latest, always=True)
    return sent[0], sent[1]
