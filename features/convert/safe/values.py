"""Numbers and text out of foreign files, checked before use and cut short for messages."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.names import bad_text

__all__ = ["brief", "check_text", "integers", "real_rows"]


def integers(where: str, what: str, values: object, count: int) -> tuple[int, ...]:
    """Return ``count`` whole numbers from JSON, text or numpy values.

    Raises: InputError: another count, or a value that is no whole number.
    """
    listed = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim)
    if not listed or len(cast("Sequence[object]", values)) != count:
        raise InputError(f"{where}: {what} must be {count} numbers, not {brief(values)}.")
    numbers = []
    for value in cast("Sequence[Any]", values):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{where}: {what} {brief(value)} is no number.") from error
        if number != number // 1 or not -(2**62) < number < 2**62:
            raise InputError(f"{where}: {what} {brief(value)} is no whole number.")
        numbers.append(int(number))
    return tuple(numbers)


def real_rows(where: str, said: object, rows: int) -> int:
    """Return how many of ``rows`` rows are boxes, from what the file says (None: all).

    MMF's extraction writes a fixed number of rows, best first, and as ``num_boxes`` how many of
    them have a score.

    Raises: InputError: more boxes than rows.
    """
    if said is None:
        return rows
    (count,) = integers(where, "num_boxes", [said], 1)
    if not 0 <= count <= rows:
        raise InputError(f"{where}: num_boxes is {count}, there are {rows} features.")
    return count


class _Brief(reprlib.Repr):
    """Few characters of any value: a list that holds itself a million times must not be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_int(self, value: int, level: int) -> str:
        # Python itself refuses to write out more than 4,300 digits
        bits = value.bit_length()
        return super().repr_int(value, level) if bits < 999 else f"an integer of {bits} bits"

    def repr_ndarray(self, array: npt.NDArray[np.generic], _level: int) -> str:
        return f"an array of {array.dtype} {array.shape}"


def brief(value: object) -> str:
    """Return a value out of a foreign file as text for a message, at most 80 characters.

    >>> brief([[[[1] * 9] * 9] * 9] * 9)[:20]
    '[[[...], [...], [...'
    """
    return _Brief().repr(value)[:80]


def check_text(where: object, what: str, names: Iterable[str]) -> None:
    """Refuse text that no file can hold: halves of characters, which JSON and file names may have.

    Raises: InputError: a name cannot be written as UTF-8.
    """
    for name in names:
        if reason := bad_text(name):
            raise InputError(f"{where}: {what} {name[:80]!a}: {reason}. Rename it.")
