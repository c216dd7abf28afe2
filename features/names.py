"""What splits and files may be called: both names come out of files and become paths later."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["bad_file", "bad_name", "bad_split", "bad_text"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def bad_text(text: str) -> str:
    r"""Return why a caption cannot be stored, "" where it can.

    >>> bad_text("a caf\udce9")
    "it has half a character ('\\udce9')"
    """
    found = _SURROGATE.search(text)
    return f"it has half a character ({found[0]!r})" if found else ""


def bad_name(name: str) -> str:
    r"""Return why an id cannot be stored, "" where it can: exports write one a line.

    >>> bad_name("1.jpg\n")
    "it has a control character ('\\n')"
    """
    if not name:
        return "it is empty"
    found = _CONTROL.search(name)
    return f"it has a control character ({found[0]!r})" if found else bad_text(name)


def bad_split(name: str) -> str:
    """Return why a split cannot be called so, "" where it can: exports name files after it.

    >>> bad_split("../evil"), bad_split("train")
    ("split '../evil' is no plain name", '')
    """
    plain = not re.search(r"[/\\]|\.\.", name) and not bad_name(name)
    return "" if plain else f"split {name!r} is no plain name"


def bad_file(name: str) -> str:
    """Return why a picture cannot be called so, "" where it can: it is looked up in a folder.

    >>> bad_file("val2014/../../1.jpg"), bad_file("val2014/1.jpg")
    ("file name 'val2014/../../1.jpg' leaves its folder", '')
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        return f"file name {name!r} leaves its folder"
    return bad_name(name)
