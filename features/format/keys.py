"""Content keys: equal inputs and parameters give the same key, on any machine, at any time.

A key is the sha256 of canonical JSON over {stage, stage version, significant parameters, keys of
the inputs, hashes of raw files}. The first twelve digits name the folder of a variant. Source code
is never hashed: a change of behaviour bumps the stage's version instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from features.errors import MissingInput, UsageError

__all__ = [
    "KEY_DIGITS",
    "HashCache",
    "canonical_json",
    "content_key",
    "folder_name",
    "hash_file",
    "hash_json",
]

KEY_DIGITS = 12


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text.

    >>> canonical_json({"b": 1, "a": [True, None, 0.5]})
    '{"a":[true,null,0.5],"b":1}'

    Raises: UsageError: a value that JSON cannot hold, NaN included.
    """
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"a parameter cannot be part of a key: {error}") from error


def hash_json(value: object) -> str:
    """Return the sha256 of a value as canonical JSON; text may hold lone surrogates.

    Raises: UsageError: a value that JSON cannot hold.
    """
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def content_key(
    stage: str, version: str, parameters: Mapping[str, object], inputs: Mapping[str, str]
) -> str:
    """Return the 64-digit key of one stage's output.

    Args:
        stage: stage family, for example ``"text"``.
        version: the stage's explicit version; bump it when its output changes.
        parameters: everything that changes the output, JSON values only.
        inputs: name -> key or hash of each input.
    """
    document = {
        "stage": stage,
        "version": version,
        "parameters": dict(parameters),
        "inputs": dict(inputs),
    }
    return hash_json(document)


def folder_name(group: str, key: str) -> str:
    """Return the name of the folder that holds a variant: ``group`` and the key's first digits."""
    return f"{group}-{key[:KEY_DIGITS]}"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises: MissingInput: there is no such file, or it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    return digest.hexdigest()


class HashCache:
    """Hashes of input files, remembered by path, size and modification time.

    Hashing 31,783 photos takes seconds the first time and only a stat each afterwards. The cache is
    a convenience: deleting it costs time, never correctness.

    Args:
        path: JSON file that keeps the hashes between runs; None keeps them in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, list[object]] = {}
        if path is not None and path.exists():
            try:
                known = json.loads(path.read_text())
                self._known = {
                    k: v for k, v in known.items() if isinstance(v, list) and len(v) == 3
                }
            except (OSError, ValueError, AttributeError):
                self._known = {}  # a torn cache is an empty cache

    def files(self, paths: Iterable[Path]) -> list[str]:
        """Return the sha256 of every path, reading only files that changed since the last time."""
        wanted = list(paths)
        stamps: list[list[object]] = []
        todo: list[int] = []
        for at, path in enumerate(wanted):
            try:
                status = path.stat()
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
                for at, digest in zip(
                    todo, pool.map(lambda i: hash_file(wanted[i]), todo), strict=True
                ):
                    self._known[str(wanted[at])] = [*stamps[at], digest]
            self._save()
        return [str(self._known[str(path)][2]) for path in wanted]

    def file(self, path: Path) -> str:
        """Return the sha256 of one file."""
        return self.files([path])[0]

    def _save(self) -> None:
        if self.path is None:
            return
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._known))
            partial.replace(self.path)
        except OSError:
            # A store on a full or read-only disk fails later, with a better message.
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
