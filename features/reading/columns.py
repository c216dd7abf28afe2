"""Columns of strings as the reader returns them, decoded only when a string is needed."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from features.format import Columns, decode_texts

Array = npt.NDArray[Any]


class TextColumn:
    """Strings as UTF-8 bytes and offsets."""

    def __init__(self, raw: Array, offsets: Array):
        self.raw, self.offsets = raw, offsets

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        """Return the string of one row."""
        start, stop = self.offsets[row], self.offsets[row + 1]
        return self.raw[start:stop].tobytes().decode("utf-8", "surrogatepass")

    def tolist(self) -> list[str]:
        """Return all strings."""
        return decode_texts(self.raw, self.offsets)


class CodedColumn:
    """Strings as codes into a table of distinct strings.

    Attributes:
        names: the distinct strings of all shards, sorted.
        codes: row -> position in ``names``, in the smallest unsigned dtype that fits.
    """

    def __init__(self, names: list[str], codes: Array):
        self.names, self.codes = names, codes

    @classmethod
    def of_shard(cls, columns: Columns, name: str) -> CodedColumn:
        """Return a coded column of one shard."""
        names = decode_texts(columns[f"{name}/names/bytes"], columns[f"{name}/names/offsets"])
        return cls(names, columns[f"{name}/codes"])

    def tolist(self) -> list[str]:
        """Return all strings of a column with one value per row."""
        names = self.names
        return [names[code] for code in self.codes.tolist()]
