"""Content keys: equal inputs and parameters give equal keys on every machine.

A key is the sha256 of canonical JSON over the stage, its version, its significant parameters, the
keys of its inputs and the hashes of raw files. The first twelve digits name the folder of a
variant. Source code is never hashed: a change of behaviour bumps the stage's version instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from features.errors import MissingInput, UsageError
from features.tar_files import read_member

KEY_DIGITS = 12


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text.

    >>> canonical_json({"b": 1, "a": [True, None, 0.5]})
    '{"a":[true,null,0.5],"b":1}'

    Raises: UsageError: a value that JSON cannot represent, such as NaN.
    """
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"a parameter cannot be part of a key: {error}") from error


def hash_json(value: object) -> str:
    """Return the sha256 of a value as canonical JSON; text may hold lone surrogates.

    Raises: UsageError: a value that JSON cannot represent.
    """
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def hash_items(items: Iterable[object]) -> str:
    """Return what ``hash_json`` returns for the list of these items, without making the list.

    >>> hash_items(iter([1, "a"])) == hash_json([1, "a"])
    True
    """
    found = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        found.update(b"," if number else b"")
        found.update(canonical_json(item).encode("utf-8", "surrogatepass"))
    found.update(b"]")
    return found.hexdigest()


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
    made = {"stage": stage, "version": version}
    return hash_json({**made, "parameters": dict(parameters), "inputs": dict(inputs)})


def folder_name(group: str, key: str) -> str:
    """Return the folder name of a variant: ``group`` and the first digits of the key."""
    return f"{group}-{key[:KEY_DIGITS]}"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises: MissingInput: the file does not exist or cannot be read.
    """
    try:
        member = read_member(path)
        if member is not None:
            return hashlib.sha256(member).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
