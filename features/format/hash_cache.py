"""A cache of the hashes of input files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from features.errors import MissingInput, WriteError
from features.format.files import replacing
from features.format.keys import hash_file
from features.tar_files import stamp


class HashCache:
    """Hashes of input files, kept by path, size and modification time.

    Hashing 31,783 images takes seconds the first time and one stat call each afterwards. Deleting
    the cache costs time only.

    Args:
        path: JSON file that keeps the hashes between runs; None keeps them in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, list[object]] = {}
        if path is not None and path.exists():
            # a damaged cache is treated as empty
            with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
                known = json.loads(path.read_text()).items()
                self._known = {k: v for k, v in known if isinstance(v, list) and len(v) == 3}

    def files(self, paths: Iterable[Path]) -> list[str]:
        """Return the sha256 of every path, reading only files that have changed."""
        wanted = list(paths)
        stamps: list[list[object]] = []
        todo: list[int] = []
        for at, path in enumerate(wanted):
            try:
                status = stamp(path)
            except OSError as error:
                raise MissingInput(
                    f"{path}: cannot be read ({error.strerror}). Check the path."
                ) from error
            stamps.append([status.st_size, status.st_mtime_ns])
            known = self._known.get(str(path))
            if known is None or known[:2] != stamps[at]:
                todo.append(at)
        if todo:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                hashes = pool.map(lambda at: hash_file(wanted[at]), todo)
                for at, digest in zip(todo, hashes, strict=True):
                    self._known[str(wanted[at])] = [*stamps[at], digest]
            if self.path is not None:
                # A store on a full or read-only disk fails later, with a better message.
                with contextlib.suppress(WriteError), replacing(self.path) as partial:
                    partial.write_text(json.dumps(self._known))
        return [str(self._known[str(path)][2]) for path in wanted]

    def forget(self) -> None:
        """Delete all hashes, for files that have changed without another size or time."""
        self._known = {}
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def file(self, path: Path) -> str:
        """Return the sha256 of one file."""
        return self.files([path])[0]
