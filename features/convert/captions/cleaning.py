"""What a caption and the name of a split become before they are stored."""

from __future__ import annotations

import html
import re
import unicodedata

NO_SPLIT = "unsplit"
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("", "nan", "none", "null", "<na>"), NO_SPLIT),
}

# Control characters carry no meaning in a caption and break terminals; newlines become spaces.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Marks that no reader sees split words or hide in them: soft hyphen, zero-width characters, marks
# of writing direction. Joiners mean something in other scripts than the Latin one.
_UNSEEN = re.compile(
    r"[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
    r"|(?<=[\x00-\u024f])[\u200c\u200d]"
)
_TYPED = {  # what word processors make of the characters on a keyboard
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\u00b4\u0060\uff07", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"'),
    **dict.fromkeys("\u2010\u2011\u2212\ufe63\uff0d", "-"),
    **{chr(0xFB00 + at): text for at, text in enumerate(("ff", "fi", "fl", "ffi", "ffl"))},
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width
    "\u2026": "...",
}
_KEYBOARD = str.maketrans(_TYPED)


def clean_text(text: str) -> str:
    r"""Return a caption as it is stored.

    HTML entities are unescaped; typographic apostrophes, quotes and hyphens become those of a
    keyboard, which the parsers were trained on; characters without a shape are removed. Letters
    are composed (NFC), unpaired surrogates become U+FFFD, and runs of white space one space.

    >>> clean_text(" A black &amp; white dog\n runs . ")
    'A black & white dog runs .'
    >>> clean_text("A man\u2019s \u201cskate\u00adboard\u201d")
    'A man\'s "skateboard"'
    """
    if text.isascii() and text.isprintable() and "&" not in text and "`" not in text:
        return " ".join(text.split())
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", html.unescape(text))
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", text)).translate(_KEYBOARD)
    return " ".join(_CONTROL.sub(" ", text).split())


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
