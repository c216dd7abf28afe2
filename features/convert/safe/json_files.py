"""Strict JSON, whole or one item at a time.

Scene graph files of whole data sets have hundreds of megabytes, and ten times that as Python
objects. ``JsonItems`` notes in one pass where the bytes of every item of the outermost object or
list are; an item is parsed again when it is read.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path

from features.convert.safe.inputs import need_file, opened, read_bytes
from features.errors import InputError, ScenestoreError

__all__ = ["JsonItems", "parse_json", "read_json"]

_CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\n\r]*")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ValueError(f"the key {twice!r} is listed twice in one object")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def read_json(path: Path | str) -> object:
    """Read a JSON file; duplicate keys, NaN and very deep nesting are errors.

    Raises: MissingInput: no such file. InputError: not such JSON.
    """
    return parse_json(read_bytes(path), str(path))


def parse_json(raw: bytes, where: str) -> object:
    """Parse JSON as strictly as ``read_json``.

    Raises: InputError: not such JSON.
    """
    try:
        value: object = json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not usable JSON ({error}). Is the file complete?") from error
    return value


class JsonItems:
    """The items of one JSON file, by key.

    Args:
        path: a JSON object, or a list if ``key_of`` is given.
        key_of: item and position -> key, for lists.

    Attributes:
        spans: key -> first byte and number of bytes of the item, in file order.
        repeated: number of list items with the key of an earlier one; the first one counts.

    Raises:
        MissingInput: no such file.
        InputError: not such JSON, or a key that is listed twice in an object.
    """

    def __init__(
        self, path: Path | str, key_of: Callable[[object, int], str] | None = None
    ) -> None:
        self.path = need_file(path)
        self.repeated = 0
        self.key_of = key_of
        self.spans: dict[str, tuple[int, int]] = {}
        try:
            _Scan(self.path, self).run()
        except (ValueError, RecursionError) as error:
            if isinstance(error, ScenestoreError):
                raise
            raise InputError(f"{path}: not usable JSON ({error}). Is the file complete?") from error

    def __contains__(self, key: str) -> bool:
        """Return whether there is an item with this key."""
        return key in self.spans

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.spans)

    def read(self, key: str) -> object:
        """Return one item; duplicate keys inside it, and NaN, are errors."""
        start, length = self.spans[key]
        with opened(self.path, buffering=0) as file:
            file.seek(start)
            return parse_json(file.read(length), f"{self.path}, item {key!r}")

    def add(self, key: str | None, value: object, span: tuple[int, int]) -> None:
        """Add an item that the scan has found; ``key`` is None in a list."""
        if key is not None:
            if key in self.spans:
                raise ValueError(f"the key {key!r} is listed twice")
            self.spans[key] = span
            return
        assert self.key_of is not None  # the scan refuses a list without it
        found = self.key_of(value, len(self.spans) + self.repeated)
        self.repeated += found in self.spans
        self.spans.setdefault(found, span)


class _Scan:
    """One pass over a file through a moving window of text."""

    def __init__(self, path: Path, items: JsonItems) -> None:
        self.path, self.items = path, items
        self.text, self.at = "", 0
        self.mark, self.mark_byte = 0, 0  # a position in the text and its byte in the file
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
                raise ValueError("there is text after the end")

    def more(self) -> None:
        """Drop the text already scanned and read on, at least as much as is left."""
        self.byte(self.at)
        rest, self.mark = self.text[self.at :], 0
        raw = self.file.read(max(_CHUNK, len(rest)))
        self.whole = not raw
        self.text, self.at = rest + self.decode(raw, final=not raw), 0

    def byte(self, at: int) -> int:
        """Return the byte of a position in the text; positions only increase."""
        self.mark_byte += len(self.text[self.mark : at].encode())
        self.mark = at
        return self.mark_byte

    def peek(self) -> str:
        """Return the next character that is not white space, "" at the end."""
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
            raise ValueError(f"{found or 'the end'!r} where one of {allowed!r} is expected")
        self.at += 1
        return found

    def value(self) -> tuple[object, tuple[int, int]]:
        """Return the next value and its span in bytes."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                # a number may continue after the window: 1 | .5e3
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
                raise ValueError(f"a key must be a string, not {str(found)[:40]!r}")
            key = found
            self.token(":")
        value, span = self.value()
        self.items.add(key, value, span)
