"""What a caption and the name of a split become before they are stored."""

from __future__ import annotations

import ast
import contextlib
import html
import re
import unicodedata
from collections.abc import Iterable

NO_SPLIT = "unsplit"
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("", "nan", "none", "null", "<na>", "n/a", "nat", "undefined"), NO_SPLIT),
}
_NOTHING = frozenset({"none", "nan", "null", "<na>", "n/a", "#n/a", "nat", "undefined", "nil"})
_BYTES = re.compile(r"""[bB](['"]).*\1""", re.DOTALL)  # what Python makes of bytes
_LISTED = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)", re.DOTALL)

# Control characters carry no meaning in a caption and break terminals; newlines become spaces.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Marks that no reader sees split words or hide in them: soft hyphen, zero-width characters, marks
# of writing direction, variants of glyphs. Joiners mean something in other scripts than Latin.
_UNSEEN = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
    r"|(?<=[\x00-\u024f])[\u200c\u200d]"
)
_TYPED = {  # what word processors make of the characters on a keyboard
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\u00b4\u0060\uff07", "'"),
    **dict.fromkeys(
        "\u02bb\u02bd\u02c8\u02ca\u02cb\u02ee\u055a\u05f3\u2035\u275b\u275c\ua78c", "'"
    ),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"'),
    **dict.fromkeys("\u2036\u2034\u275d\u275e\u301d\u301e\u301f\u05f4\u2e42", '"'),
    **dict.fromkeys("\u2039\u203a", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2043\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2014\u2015\u2e3a", " - "),
    **{chr(0xFB00 + at): text for at, text in enumerate(("ff", "fi", "fl", "ffi", "ffl"))},
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width
    "\u2026": "...",
    "\ufb05": "st",
    "\ufb06": "st",
}
_KEYBOARD = str.maketrans(_TYPED)
_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
# UTF-8 of typographic marks that was read as Windows-1252: every mark begins with these two.
_MISREAD = re.compile("\u00e2\u20ac[\u0080-\uffff]|\u00c2[\u00a0\u00ad\u00b4\u00ab\u00bb]")


def clean_text(text: str) -> str:
    r"""Return a caption as it is stored.

    HTML entities are unescaped; typographic apostrophes, quotes and hyphens become those of a
    keyboard, which the parsers were trained on; characters without a shape are removed. Letters
    are composed (NFC), unpaired surrogates become U+FFFD, and runs of white space one space.

    >>> clean_text(" A black &amp; white dog\n runs . ")
    'A black & white dog runs .'
    >>> clean_text("A man\u2019s \u201cskate\u00adboard\u201d")
    'A man\'s "skateboard"'
    >>> clean_text("A man&amp;rsquo;s watch"), clean_text("A man\u00e2\u20ac\u2122s watch")
    ("A man's watch", "A man's watch")
    """
    if text.isascii() and text.isprintable() and "&" not in text and "`" not in text:
        return " ".join(text.split())
    text = html.unescape(text)
    for _ in range(2):  # entities of entities, as programs write that escape twice
        if _ENTITY.search(text) is None:
            break
        text = html.unescape(text)
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    text = _MISREAD.sub(lambda found: _read_again(found[0]), text)
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", text)).translate(_KEYBOARD)
    return " ".join(_CONTROL.sub(" ", text).split())


def _read_again(text: str) -> str:
    """Return UTF-8 text that was read as Windows-1252 as what it is; other text as it is."""
    try:
        # Windows-1252 has no characters at five bytes, which programs keep as they are
        raw = b"".join(c.encode("latin-1" if "\x80" <= c <= "\x9f" else "cp1252") for c in text)
        return raw.decode()
    except UnicodeError:
        return text


def no_words(text: str) -> str:
    r"""Return why a text is none that a person wrote, "" if it may be.

    Programs turn missing values, bytes and lists into words.

    >>> no_words("None"), no_words("A dog [sic]")
    ("the word 'None' for a missing", '')
    >>> no_words("['A', nan]")
    'a list written as text, "[\'A\', nan]"'
    """
    if text.strip(" .").casefold() in _NOTHING:
        return f"the word {text.strip()!r} for a missing"
    if _BYTES.fullmatch(text):
        return f"bytes written as text, {text[:20]!r}"
    if _LISTED.fullmatch(text):
        plain = re.sub(r"\b(?:nan|null|NaN|NULL)\b", "None", text)
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = ast.literal_eval(plain)
            if isinstance(found, (list, dict, tuple, set)) and not _numbers(found):
                return f"a list written as text, {text[:20]!r}"
    return ""


def _numbers(values: Iterable[object]) -> bool:
    """Return whether a list has whole numbers only: ``[1, 2]`` can be what a sign says."""
    return bool(values) and all(type(value) is int for value in values)


def plain_split(name: str) -> str:
    """Return our name of a split: ``train``, ``val``, ``test``, or the name as it is.

    >>> [plain_split(name) for name in ("restval", "Validation", "mini", "")]
    ['train', 'val', 'mini', 'unsplit']
    """
    return SPLIT_ALIASES.get(name.strip().lower(), name.strip())


def split_in_name(name: str) -> str:
    """Return the split that a file name has as one of its words, "" without one.

    A word ends where letters end: ``retrieval`` has no ``val``. Two splits in one name say nothing.

    >>> split_in_name("captions_val2014.json"), split_in_name("flickr_retrieval.json")
    ('val', '')
    """
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    found = {SPLIT_ALIASES.get(word, NO_SPLIT) for word in words} - {NO_SPLIT}
    return found.pop() if len(found) == 1 else ""
