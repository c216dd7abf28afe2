"""Which texts can be ids, split names and file names: they come from files and become paths.

The ``bad_*`` functions return the reason why a text is refused, "" if it is accepted.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from features.errors import InputError

__all__ = [
    "bad_file",
    "bad_name",
    "bad_split",
    "bad_text",
    "base_name",
    "child",
    "fold",
    "hidden",
    "negative_id",
    "plain_path",
    "same_place",
    "source_of_negative",
]

# Also the marks that no editor shows: two ids that look the same would differ.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
# What systems leave in folders and archives: macOS, Synology, Windows.
_SYSTEM = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})
_GLOBAL = re.compile(r"COCO_[a-z]+\d{4}_\d{12}(\.\w+)?")  # names of one image in any folder
_NOWHERE = re.compile(r"(?<![:/])/(?:\.?/)+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def bad_text(text: str) -> str:
    r"""Check a text, which must be valid UTF-8 when it is written.

    >>> bad_text("a caf\udce9")
    "it contains an unpaired surrogate ('\\udce9')"
    """
    found = _SURROGATE.search(text)
    return f"it contains an unpaired surrogate ({found[0]!r})" if found else ""


def bad_name(name: str) -> str:
    r"""Check an id; exports write one per line.

    >>> bad_name("1.jpg\n")
    "it contains a control character ('\\n')"
    """
    if not name.strip():
        return "it is empty"
    found = _CONTROL.search(name)
    return f"it contains a control character ({found[0]!r})" if found else bad_text(name)


def hidden(name: str) -> bool:
    """Return whether a file or folder of this name is a system's, not the user's.

    >>> [hidden(name) for name in ("._1.jpg", "__MACOSX", "@eaDir", "1.jpg")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _SYSTEM


def bad_split(name: str) -> str:
    """Check the name of a split; exports use it in file names.

    >>> bad_split("../evil"), bad_split("train")
    ("split '../evil' is not a plain name", '')
    """
    plain = not re.search(r"[/\\]|\.\.", name) and not bad_name(name)
    return "" if plain else f"split {name!r} is not a plain name"


def bad_file(name: str) -> str:
    """Check the name of an image file, which is looked up in a folder.

    >>> bad_file("val2014/../../1.jpg"), bad_file("val2014/1.jpg")
    ("file name 'val2014/../../1.jpg' leads out of its folder", '')
    """
    return f"file name {name!r} leads out of its folder" if _leads_out(name) else bad_name(name)


def child(folder: Path, name: str, where: object = "") -> Path:
    """Return the path of ``name`` inside ``folder``, for names that come from a file.

    Symbolic links inside the folder are followed: the user made them, not the file.

    Raises: InputError: the name is empty, absolute or contains ``..``; ``where`` is named.
    """
    if _leads_out(name) or "\0" in name:
        raise InputError(f"{where or folder}: the name {name!r} leads out of {folder}. Remove it.")
    return folder / name.replace("\\", "/")


def base_name(name: str) -> str:
    r"""Return a file name without its folders, of POSIX or of Windows.

    >>> base_name("/data/imgs/7.jpg"), base_name("imgs\\7.jpg")
    ('7.jpg', '7.jpg')
    """
    return name.replace("\\", "/").rpartition("/")[2]


def plain_path(name: str) -> str:
    """Return a name without parts of a path that lead nowhere; URLs keep their ``//``.

    >>> plain_path("./a//b/./7.jpg"), plain_path("http://x/7.jpg")
    ('a/b/7.jpg', 'http://x/7.jpg')
    """
    if "//" not in name and "./" not in name:  # nearly all names
        return name
    name = _NOWHERE.sub("/", name)
    return name.removeprefix("./") or name


def fold(name: str) -> str:
    """Return a name without differences of upper case and of Unicode normal forms.

    macOS unpacks "é" as two characters, and cameras write ``.JPG``.
    """
    return unicodedata.normalize("NFC", name).casefold()


def same_place(name: str, other: str) -> bool:
    """Return whether two names with equal last parts can mean the same image.

    They cannot if both have a folder and the folders differ: ``val/1.jpg`` is not
    ``train/1.jpg``. A file name of COCO 2014 means one image wherever it is.

    >>> same_place("val/1.jpg", "/data/val/1.jpg"), same_place("val/1.jpg", "train/1.jpg")
    (True, False)
    """
    parents = [PurePosixPath(one.replace("\\", "/")).parent.name for one in (name, other)]
    if not all(parents) or _GLOBAL.fullmatch(base_name(name)):
        return True
    return fold(parents[0]) == fold(parents[1])


def negative_id(caption_id: str, kind: str) -> str:
    """Return the id of a false caption made from another one."""
    return f"{caption_id}~{kind}"


def source_of_negative(name: str) -> tuple[str, str]:
    """Return the caption id and the kind in the id of a negative; "" twice for another id.

    >>> source_of_negative(negative_id("1.jpg#0", "swap"))
    ('1.jpg#0', 'swap')
    """
    source, mark, kind = name.rpartition("~")
    return (source, kind) if mark else ("", "")


def _leads_out(name: str) -> bool:
    plain = name.replace("\\", "/")
    outside = ".." in plain and ".." in plain.split("/")
    return not name or plain[0] == "/" or outside or name[1:2] == ":"
