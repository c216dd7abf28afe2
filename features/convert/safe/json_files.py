"""Strict JSON, whole or one item at a time.

Scene graph files of whole data sets have hundreds of megabytes, and ten times that as Python
objects. ``JsonItems`` notes in one pass where the bytes of every item of the outermost object or
list are; an item is parsed again when it is read.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from features.convert.safe.inputs import damaged, need_file, opened, read_bytes
from features.convert.safe.values import brief
from features.errors import InputError

_CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\n\r]*")


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object, for ``object_pairs_hook``. Raises: ValueError: a repeated key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ValueError(f"the key {brief(twice)} is listed twice in one object")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_STRICT = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_refuse)


def read_json(path: Path | str) -> object:
    """Read a JSON file; duplicate keys, NaN and very deep nesting are errors.

    Raises: MissingInput: no such file. InputError: not such JSON.
    """
    return parse_json(read_bytes(path), str(path))


def parse_json(raw: bytes, where: str, advice: str = "Is the file complete?") -> object:
    """Parse JSON as strictly as ``read_json``.

    Raises: InputError: not such JSON; the message ends with ``advice``.
    """
    with _broken_json(where, advice):
        # json.loads would make a decoder and detect the encoding for each line of a table
        plain = raw[:2] in (b'{"', b"[{", b'["')
        encoding = "utf-8" if plain else json.detect_encoding(raw)
        value: object = _STRICT.decode(raw.decode(encoding, "surrogatepass"))
        return value


def _broken_json(
    where: object, advice: str = "Is the file complete?"
) -> AbstractContextManager[None]:
    return damaged(f"{where}: not usable JSON", ValueError, RecursionError, advice=advice)


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
        self.spans: dict[str, tuple[int, int]] = {}
        with _broken_json(path), opened(self.path) as file:
            for key, value, span in _Scan(file).items(lists=key_of is not None):
                if key_of is None or key is not None:
                    name = str(key)
                    if name in self.spans:
                        raise ValueError(f"the key {name!r} is listed twice")
                else:
                    name = key_of(value, len(self.spans) + self.repeated)
                    self.repeated += name in self.spans
                self.spans.setdefault(name, span)

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


def stream_items(path: Path | str) -> Iterator[tuple[str, object]]:
    """Yield the items of every list in a JSON object, each with the key of its list.

    Other values of the object are yielded whole; the items of an outermost list have the key "".
    One item at a time is in memory.

    Raises: MissingInput: no such file. InputError: not such JSON, or a key that is listed twice.
    """
    seen: set[str] = set()
    with _broken_json(path), opened(need_file(path)) as file:
        scan = _Scan(file)
        opening = scan.token("[{")
        if opening == "[":
            yield from (("", item) for item in scan.rest_of_list())
        elif scan.peek() == "}":
            scan.at += 1
        else:
            while True:
                key, _ = scan.value()
                if not isinstance(key, str) or key in seen:
                    raise ValueError(f"the key {str(key)[:40]!r} is no text or listed twice")
                seen.add(key)
                scan.token(":")
                if scan.peek() == "[":
                    scan.at += 1
                    for item in scan.rest_of_list():
                        yield key, item
                else:
                    yield key, scan.value()[0]
                if scan.token(",}") == "}":
                    break
        if scan.peek():
            raise ValueError("there is text after the end")


class _Scan:
    """One pass over a file through a moving window of text."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.text, self.at = "", 0
        self.mark, self.mark_byte = 0, 0  # a position in the text and its byte in the file
        self.whole = False
        self.decode = codecs.getincrementaldecoder("utf-8")().decode

    def items(self, *, lists: bool) -> Iterator[tuple[str | None, object, tuple[int, int]]]:
        """Yield key (None in a list), value and span of each item."""
        opening = self.token("[{")
        closing = {"[": "]", "{": "}"}[opening]
        if opening == "[" and not lists:
            raise InputError(f"{self.file.name}: expected a JSON object, this is a list.")
        if self.peek() == closing:
            self.at += 1
        else:
            while True:
                key: str | None = None
                if opening == "{":
                    found, _ = self.value()
                    if not isinstance(found, str):
                        raise ValueError(f"a key must be a string, not {str(found)[:40]!r}")
                    key = found
                    self.token(":")
                yield key, *self.value()
                if self.token(f",{closing}") == closing:
                    break
        if self.peek():
            raise ValueError("there is text after the end")

    def rest_of_list(self) -> Iterator[object]:
        """Yield the items of a list whose bracket has been read, up to its end."""
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()[0]
            if self.token(",]") == "]":
                return

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
