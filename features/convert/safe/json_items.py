"""Large JSON files one item at a time: where each member of the outermost object or list lies.

Scene graph files of whole data sets have hundreds of megabytes, and ten times that as Python
objects. One pass notes the bytes of every item and forgets its contents; an item is parsed again
when it is asked for.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path

from features.convert.safe.inputs import need_file, opened
from features.convert.source import parse_json
from features.errors import InputError, ScenestoreError

__all__ = ["JsonItems"]

_CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\n\r]*")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


class JsonItems:
    """The items of one JSON file, by key.

    Args:
        path: a JSON object, or a list where ``key_of`` is given.
        key_of: item and position -> key, for lists.

    Attributes:
        repeated: items of a list that have the key of an earlier one; the first one counts.

    Raises:
        MissingInput: no such file.
        InputError: not that JSON, or a key that stands twice in an object.
    """

    def __init__(
        self, path: Path | str, key_of: Callable[[object, int], str] | None = None
    ) -> None:
        self.path = need_file(path)
        self.repeated = 0
        self.key_of = key_of
        self._spans: dict[str, tuple[int, int]] = {}
        try:
            _Scan(self.path, self).run()
        except (ValueError, RecursionError) as error:
            if isinstance(error, ScenestoreError):
                raise
            raise InputError(f"{path}: not usable JSON ({error}). Is the file complete?") from error

    def __contains__(self, key: str) -> bool:
        """Say whether there is an item with this key."""
        return key in self._spans

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._spans)

    def keys(self) -> list[str]:
        """Return the keys in file order."""
        return list(self._spans)

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Key -> first byte and number of bytes of the item."""
        return self._spans

    def read(self, key: str) -> object:
        """Return one item; duplicate keys inside it, and NaN, are errors."""
        start, length = self._spans[key]
        with opened(self.path, buffering=0) as file:
            file.seek(start)
            return parse_json(file.read(length), f"{self.path}, item {key!r}")

    def add(self, key: str | None, value: object, span: tuple[int, int]) -> None:
        """Note one item; called while the file is scanned."""
        if key is not None:
            if key in self._spans:
                raise ValueError(f"the key {key!r} stands twice")
            self._spans[key] = span
            return
        assert self.key_of is not None  # a list without it was refused at its first character
        found = self.key_of(value, len(self._spans) + self.repeated)
        self.repeated += found in self._spans
        self._spans.setdefault(found, span)


class _Scan:
    """One pass over a file with a window of text that moves along."""

    def __init__(self, path: Path, items: JsonItems) -> None:
        self.path, self.items = path, items
        self.text, self.at = "", 0
        self.mark, self.mark_byte = 0, 0  # a place in the text and its byte in the file
        self.whole = False
        self.decode = codecs.getincrementaldecoder("utf-8")().decode

    def run(self) -> None:
        """Scan the file and add its items."""
        with opened(self.path) as self.file:
            opening = self.token("[{")
            closing = {"[": "]", "{": "}"}[opening]
            if opening == "[" and self.items.key_of is None:
                raise InputError(f"{self.path}: expected a JSON object, this is a list.")
            if self.peek() == closing:
                self.at += 1
            else:
                while True:
                    self.item(opening == "{")
                    if self.token(f",{closing}") == closing:
                        break
            if self.peek():
                raise ValueError("something stands behind the end")

    def more(self) -> None:
        """Drop what has been read and read on; each time as much again as is left."""
        self.byte(self.at)
        rest, self.mark = self.text[self.at :], 0
        raw = self.file.read(max(_CHUNK, len(rest)))
        self.whole = not raw
        self.text, self.at = rest + self.decode(raw, final=not raw), 0

    def byte(self, at: int) -> int:
        """Return the byte of a place in the text; places only rise."""
        self.mark_byte += len(self.text[self.mark : at].encode())
        self.mark = at
        return self.mark_byte

    def peek(self) -> str:
        """Return the next character that is no space, "" at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if self.whole:
                return ""
            self.more()

    def token(self, allowed: str) -> str:
        """Return the next character, which must be one of ``allowed``."""
        found = self.peek()
        if not found or found not in allowed:
            raise ValueError(f"{found or 'the end'!r} where one of {allowed!r} is needed")
        self.at += 1
        return found

    def value(self) -> tuple[object, tuple[int, int]]:
        """Return the next value and its place in bytes."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                # a number could go on behind the window: 1 | .5e3
                if self.whole or self.text[end : end + 1].strip("+-.0123456789eE"):
                    break
            except ValueError:
                if self.whole:
                    raise
            self.more()
        start = self.byte(self.at)
        self.at = end
        return value, (start, self.byte(end) - start)

    def item(self, named: bool) -> None:
        """Read one item, with its key in an object."""
        key = None
        if named:
            found, _ = self.value()
            if not isinstance(found, str):
                raise ValueError(f"a key must be text, not {str(found)[:40]!r}")
            key = found
            self.token(":")
        value, span = self.value()
        self.items.add(key, value, span)
