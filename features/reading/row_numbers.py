"""Map string ids to row numbers, and check the row numbers that a caller passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import FormatError, UnknownName, UsageError

Index = npt.NDArray[np.int64]


class IdTable:
    """Unique ids -> rows.

    >>> IdTable("image id", ["a.jpg", "b.jpg"]).rows(["b.jpg"]).tolist()
    [1]

    Raises: FormatError: an id is listed twice.
    """

    def __init__(self, what: str, ids: Sequence[str]):
        self.what = what
        self._rows = {name: row for row, name in enumerate(ids)}
        if len(self._rows) != len(ids):
            name = next(name for row, name in enumerate(ids) if self._rows[name] != row)
            raise FormatError(f"{what} {name!r} is listed twice. Build the store again.")

    def rows(self, ids: Iterable[str]) -> Index:
        """Return the row of each id, (n,) int64.

        Raises: UnknownName: an id is not in the store.
        """
        if isinstance(ids, str):
            raise UsageError(f"pass a list of {self.what}s, not one string: [{ids!r}].")
        try:
            return np.asarray([self._rows[name] for name in ids], np.int64)
        except KeyError as error:
            raise UnknownName.of(self.what, str(error.args[0]), self._rows) from None


def checked_rows(rows: Sequence[int] | npt.NDArray[Any], count: int, what: str = "rows") -> Index:
    """Return row numbers as a flat int64 array, after checking that they are in 0 .. count - 1.

    Raises: UsageError: they are not; numpy would accept some of them and return other rows.
    """
    index = np.asarray(rows)
    if index.size and index.dtype.kind not in "iu":
        raise UsageError(f"{what} must be integers, not {index.dtype}.")
    index = index.astype(np.int64, copy=False).reshape(-1)
    if index.size and not (int(index.min()) >= 0 and int(index.max()) < count):
        raise UsageError(f"{what} must lie in 0 .. {count - 1}.")
    return index
