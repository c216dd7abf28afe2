"""Caption readers: every published file layout becomes the same list of images with captions.

Known layouts, told apart by their content:

* Karpathy's ``dataset_{flickr8k,flickr30k,coco}.json`` (also ``.json.gz``); ``restval`` is train
* COCO's own ``captions_{train,val}20xx.json``, one or several; the split is in the file's name
* ``results_20130124.token``: ``1000092795.jpg#0<TAB>caption``, no splits
* Flickr30k Entities' ``Sentences`` folder: ``[/EN#283585/people A man]``, no splits
"""

from __future__ import annotations

import gzip
import html
import json
import re
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import InputError, MissingInput, UsageError
from features.names import bad_file, bad_split
from features.records import Caption, ImageEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["NO_SPLIT", "CaptionSet", "caption_files", "clean_text", "read_captions"]

NO_SPLIT = "unsplit"
SPLIT_ALIASES = {"restval": "train", "validation": "val", "dev": "val", "": NO_SPLIT}

# Control characters carry no meaning in a caption and break terminals; newlines become spaces.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PHRASE = re.compile(r"\[/EN#\d+(?:/[^\s\]]+)+ ([^\]]*)\]")


@dataclass(frozen=True)
class CaptionSet:
    """The images and captions of one data set, in the order of their files.

    Attributes:
        entries: images with captions; ids are unique, captions are clean and not empty.
        dropped: (id, reason) of every caption or image that could not be kept.
    """

    entries: tuple[ImageEntry, ...]
    dropped: tuple[tuple[str, str], ...] = ()

    @property
    def n_captions(self) -> int:
        """Number of captions over all images."""
        return sum(len(entry.captions) for entry in self.entries)

    def splits(self) -> dict[str, int]:
        """Return the number of images of each split."""
        return dict(Counter(entry.split for entry in self.entries))


def clean_text(text: str) -> str:
    r"""Return a caption as it is stored: HTML entities unescaped, no control characters.

    >>> clean_text(" A black &amp; white dog\n runs . ")
    'A black & white dog runs .'
    """
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", html.unescape(text))
    return " ".join(_CONTROL.sub(" ", text).split())


def caption_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the caption files that an option names: one path, several with commas, or a folder.

    A folder of ``captions_*.json`` files stands for all of them; a folder of ``.txt`` files is a
    Flickr30k Entities ``Sentences`` folder and stays one path.

    Raises: MissingInput: a path does not exist or a folder holds no captions.
    """
    if isinstance(paths, str):
        paths = [paths] if Path(paths).exists() else [part for part in paths.split(",") if part]
    elif isinstance(paths, Path):
        paths = [paths]
    found: list[Path] = []
    for item in paths:
        path = Path(item)
        if not path.exists():
            raise MissingInput(f"{path}: no such captions file. Check --captions.")
        if path.is_dir() and not any(path.glob("*.txt")):
            inside = sorted(path.glob("captions_*.json"))
            if not inside:
                message = (
                    f"{path}: no captions_*.json and no Entities sentences (*.txt) in this folder."
                )
                raise MissingInput(f"{message} Give --captions the file itself.")
            found += inside
        else:
            found.append(path)
    if not found:
        raise MissingInput("--captions names no file.")
    return found


def read_captions(
    paths: str | Path | Sequence[str | Path], *, on_error: str = "fail"
) -> CaptionSet:
    """Read one or several caption files.

    Args:
        paths: what ``caption_files`` takes.
        on_error: ``fail`` raises at the first entry that cannot be kept (an empty caption, an id
            used twice, a file or split whose name leads out of a folder); ``skip`` drops and
            names it.

    Raises:
        InputError: a file is not what it should be, or an entry is bad and on_error is ``fail``.
        MissingInput: a file does not exist.
    """
    if on_error not in ("fail", "skip"):
        raise UsageError(f"--on-error {on_error!r}: say fail or skip.")
    keep = _Keeper(on_error)
    for path in caption_files(paths):
        for entry in _reader(path)(path):
            keep.add(entry, path)
    if not keep.entries:
        raise InputError(f"{paths}: no image with captions in it. Is this the right file?")
    return CaptionSet(tuple(keep.entries.values()), tuple(keep.dropped))


class _Keeper:
    """Collect entries, with one policy for everything that cannot be kept."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self.entries: dict[str, ImageEntry] = {}
        self.dropped: list[tuple[str, str]] = []
        self._caption_ids: set[str] = set()

    def add(self, entry: ImageEntry, path: Path) -> None:
        split = SPLIT_ALIASES.get(entry.split, entry.split)
        if reason := bad_file(entry.file) or bad_split(split):
            self._drop(entry.id or "(no name)", reason, path)
            return
        before = self.entries.get(entry.id)
        if before is not None and (before.split, before.file) != (entry.split, entry.file):
            self._drop(entry.id, f"listed twice, as {before.split} and as {entry.split}", path)
            return
        captions = list(before.captions) if before else []
        for caption in entry.captions:
            text = clean_text(caption.text)
            if not text:
                self._drop(caption.id, f"empty caption of image {entry.id}", path)
            elif caption.id in self._caption_ids:
                self._drop(caption.id, f"caption id used twice (image {entry.id})", path)
            else:
                self._caption_ids.add(caption.id)
                captions.append(Caption(caption.id, text))
        self.entries[entry.id] = replace(entry, captions=tuple(captions), split=split)

    def _drop(self, item: str, reason: str, path: Path) -> None:
        if self.on_error == "fail":
            raise InputError(
                f"{path}: {item}: {reason}. Mend it, or skip such items: --on-error skip."
            )
        self.dropped.append((item, reason))


def _reader(path: Path) -> Callable[[Path], Iterable[ImageEntry]]:
    """Choose the reader of a path by what is in it."""
    if path.is_dir():
        return _read_entities
    if path.name.removesuffix(".gz").endswith(".json"):
        return _read_json
    return _read_token


def _text(path: Path) -> str:
    """Return the text of a plain or gzipped file; undecodable bytes are an error."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz" or data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: broken gzip file ({error}). Fetch it again.") from error
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error


def _read_json(path: Path) -> Iterator[ImageEntry]:
    try:
        document = json.loads(_text(path))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        message = f"{path}: broken JSON at {place} ({error.msg}). Fetch the file again."
        raise InputError(message) from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply to be a captions file.") from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise InputError(f"{path}: no list 'images' in it; neither Karpathy's nor COCO's layout.")
    at = "images"
    try:
        if "annotations" in document:
            yield from _coco(document, path)
        else:
            for number, image in enumerate(document["images"]):
                at = f"images[{number}]"
                yield _karpathy(image)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: {at}: {what}; not a captions file of a known layout.") from error


def _karpathy(image: dict[str, Any]) -> ImageEntry:
    name = str(image["filename"])
    folder = image.get("filepath") or ""
    captions = tuple(
        Caption(str(sentence.get("sentid", f"{name}#{number}")), _raw(sentence))
        for number, sentence in enumerate(image["sentences"])
    )
    return ImageEntry(
        name, f"{folder}/{name}" if folder else name, _split(image.get("split")), captions
    )


def _raw(sentence: dict[str, Any]) -> str:
    """Return the sentence as written; files without ``raw`` have its tokens."""
    return str(sentence["raw"]) if "raw" in sentence else " ".join(sentence["tokens"])


def _split(name: object) -> str:
    return SPLIT_ALIASES.get(str(name or ""), str(name or ""))


def _coco(document: dict[str, Any], path: Path) -> Iterator[ImageEntry]:
    split = next((s for s in ("train", "val", "test") if s in path.name), "")
    captions: dict[Any, list[Caption]] = {image["id"]: [] for image in document["images"]}
    for number, note in enumerate(document["annotations"]):
        if note["image_id"] not in captions:
            message = (
                f"{path}: annotations[{number}]: image_id {note['image_id']!r} is not in 'images'"
            )
            raise InputError(f"{message}; the file is incomplete.")
        if "caption" not in note:
            raise InputError(f"{path}: annotations[{number}] has no 'caption' (instances file?).")
        captions[note["image_id"]].append(Caption(str(note["id"]), str(note["caption"])))
    for image in document["images"]:
        name = str(image["file_name"])
        yield ImageEntry(name, name, _split(split), tuple(captions[image["id"]]))


def _read_token(path: Path) -> Iterator[ImageEntry]:
    captions: dict[str, list[Caption]] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.partition("#")
        if not (tab and hash_sign and name):
            message = f"{path}: line {number} is not 'image.jpg#k<TAB>caption': {line[:60]!r}"
            raise InputError(f"{message}. Known layouts are listed in README, section Captions.")
        captions.setdefault(name, []).append(Caption(key.strip(), caption))
    for name, items in captions.items():
        yield ImageEntry(name, name, NO_SPLIT, tuple(items))


def _read_entities(folder: Path) -> Iterator[ImageEntry]:
    for path in sorted(folder.glob("*.txt")):
        name = f"{path.stem}.jpg"
        lines = [_PHRASE.sub(r"\1", line) for line in _text(path).split("\n") if line.strip()]
        if any("[/EN#" in line for line in lines):
            raise InputError(f"{path}: a phrase is not closed: '[/EN#id/type words]' expected.")
        captions = tuple(Caption(f"{name}#{k}", line) for k, line in enumerate(lines))
        yield ImageEntry(name, name, NO_SPLIT, captions)
