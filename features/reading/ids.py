"""Ids at the border, rows inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from features.errors import FormatError, UnknownName, UsageError

__all__ = ["IdTable"]

Index = npt.NDArray[np.int64]


class IdTable:
    """Unique ids -> rows.

    >>> IdTable("image id", ["a.jpg", "b.jpg"]).rows(["b.jpg"]).tolist()
    [1]

    Raises: FormatError: an id stands there twice.
    """

    def __init__(self, what: str, ids: Sequence[str]):
        self.what = what
        self._rows = {name: row for row, name in enumerate(ids)}
        if len(self._rows) != len(ids):
            raise FormatError(f"the store holds the same {what} twice. Build it again.")

    def rows(self, ids: Iterable[str]) -> Index:
        """Return the row of each id, (n,) int64.

        Raises: UnknownName: an id that is not there.
        """
        if isinstance(ids, str):
            raise UsageError(f"give a list of {self.what}s, not one string: [{ids!r}].")
        try:
            return np.asarray([self._rows[name] for name in ids], np.int64)
        except KeyError as error:
            name = str(error.args[0])
            close = UnknownName.of(self.what, name, list(self._rows)[:10_000])
            raise close from None
