"""Read .npz files that this package wrote; a damaged one is one kind of error."""

from __future__ import annotations

import contextlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError, MissingInput, ScenestoreError

ARRAY_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, LookupError)
ARRAY_DAMAGE += (AttributeError, ArithmeticError, MemoryError, RuntimeError, struct.error)
ARRAY_DAMAGE += (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""Exceptions that numpy and zipfile raise on damaged files, whether encrypted, cut or huge."""


def check_array(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Check an array of floating-point numbers.

    Raises: ValueError: it has another shape or dtype, or a value that is not finite.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise ValueError(f"{name!r} is not an array of floating-point numbers")
    if value.shape != shape:
        raise ValueError(f"{name!r} has the shape {value.shape}, not {shape}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name!r} has values that are not finite")


def check_names(name: str, value: Any) -> None:
    """Raise ValueError if a value is not a sequence of texts that are all different."""
    if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{name!r} is not a list of names")
    if len(set(value)) < len(value):
        raise ValueError(f"{name!r} has a name twice")


@contextlib.contextmanager
def open_npz(path: Path | str, what: str, advice: str) -> Iterator[Mapping[str, Any]]:
    """Open an .npz file; arrays are read, and their checksums compared, when they are asked for.

    Args:
        path: the file.   what: what it should be.   advice: last sentence of the error.

    Raises:
        MissingInput: no such file.
        InputError: the file is damaged, or the block finds that it is something else.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except ScenestoreError:
        raise
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such file. {advice}") from error
    except ARRAY_DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not {what} ({reason}). {advice}") from error
