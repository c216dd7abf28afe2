"""Caption files: every published layout becomes the same list of images with captions.

Builds and imports read captions here. The layouts are told apart by their contents:

* Karpathy's ``dataset_{flickr8k,flickr30k,coco}.json``, plain or gzipped; ``restval`` is train
* COCO's ``captions_{train,val}20xx.json``; the split is in the file's name
* ``results_20130124.token``: lines ``1000092795.jpg#0<TAB>caption``, without splits
* the folder ``Sentences`` of Flickr30k Entities: ``[/EN#283585/people A man]``, without splits
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from features.convert.readers.entities import MARKED
from features.convert.safe.inputs import read_text
from features.errors import InputError, MissingInput, UsageError
from features.names import bad_file, bad_name, bad_split
from features.records import Caption, ImageEntry

NO_SPLIT = "unsplit"
SPLIT_ALIASES = {"restval": "train", "validation": "val", "dev": "val", "": NO_SPLIT}

# Control characters carry no meaning in a caption and break terminals; newlines become spaces.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class CaptionSet:
    """The images and captions of a data set, in the order of their files.

    Attributes:
        entries: images with captions; ids are unique, captions are clean and not empty.
        dropped: (id, reason) of every caption or image that was skipped.
        files: the files that were read.
        by_name: whether names of files decide splits or ids.
        numbers: image id -> its ``imgid`` in Karpathy's JSON.
    """

    entries: tuple[ImageEntry, ...]
    dropped: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()
    by_name: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_captions(self) -> int:
        """Number of captions of all images."""
        return sum(len(entry.captions) for entry in self.entries)


def clean_text(text: str) -> str:
    r"""Return a caption as it is stored: HTML entities unescaped, no control characters.

    Unpaired surrogates become U+FFFD, and runs of white space one space.

    >>> clean_text(" A black &amp; white dog\n runs . ")
    'A black & white dog runs .'
    """
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", html.unescape(text))
    return " ".join(_CONTROL.sub(" ", text).split())


def caption_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the caption files that an option names: one path, several with commas, or a folder.

    A folder with ``.txt`` files is the ``Sentences`` folder of Flickr30k Entities and stays one
    path; any other folder stands for its ``captions_*.json`` files.

    Raises: MissingInput: a path does not exist or a folder has no captions.
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
                raise MissingInput(
                    f"{path}: this folder has neither captions_*.json nor Entities sentences "
                    "(*.txt). Pass the file itself to --captions."
                )
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
        on_error: ``fail`` raises at the first entry that cannot be stored: an empty caption, an id
            used twice, a name that leads out of a folder. ``skip`` drops and lists it.

    Raises:
        InputError: a file has no known layout, or an entry is bad and ``on_error`` is ``fail``.
        MissingInput: a file does not exist.
    """
    collector = _Collector(on_error)
    files: list[Path] = []
    by_name = False
    for path in caption_files(paths):
        files += sorted(path.glob("*.txt")) if path.is_dir() else [path]
        entries, named = _read(path)
        by_name |= named
        for entry in entries:
            collector.add(entry, path)
    if not collector.entries:
        raise InputError(f"{paths}: no image with captions in it. Is this the right file?")
    return replace(collector.result(), files=tuple(files), by_name=by_name)


def check_entries(
    entries: Iterable[ImageEntry], where: object, *, on_error: str = "fail"
) -> CaptionSet:
    """Check and clean images and captions of another source as ``read_captions`` does.

    Args:
        entries: images; ``file`` may be empty.
        where: the source, for messages.
        on_error: as for ``read_captions``.

    Raises: InputError: an entry cannot be stored and ``on_error`` is ``fail``.
    """
    collector = _Collector(on_error)
    for entry in entries:
        collector.add(entry, where)
    return collector.result()


class _Collector:
    """Collect entries that can be stored; one policy for all that cannot."""

    def __init__(self, on_error: str) -> None:
        if on_error not in ("fail", "skip"):
            raise UsageError(f"--on-error is fail or skip, not {on_error!r}.")
        self.on_error = on_error
        self.entries: dict[str, ImageEntry] = {}
        self.dropped: list[tuple[str, str]] = []
        self._caption_ids: set[str] = set()

    def add(self, entry: ImageEntry, where: object) -> None:
        entry = replace(entry, split=SPLIT_ALIASES.get(entry.split, entry.split))
        reason = bad_name(entry.id) or bad_split(entry.split)
        if reason := reason or (bad_file(entry.file) if entry.file else ""):
            self._drop("image", entry.id, reason, where)
            return
        before = self.entries.get(entry.id)
        if before is not None and (before.split, before.file) != (entry.split, entry.file):
            reason = f"listed twice, as {before.split} and as {entry.split}"
            self._drop("image", entry.id, reason, where)
            return
        captions = list(before.captions) if before else []
        for caption in entry.captions:
            text = clean_text(caption.text)
            if not text:
                self._drop("caption", caption.id, f"empty caption of image {entry.id}", where)
            elif caption.id in self._caption_ids:
                reason = f"caption id used twice (image {entry.id})"
                self._drop("caption", caption.id, reason, where)
            elif reason := bad_name(caption.id):
                self._drop("caption", caption.id, f"{reason} (image {entry.id})", where)
            else:
                self._caption_ids.add(caption.id)
                captions.append(Caption(caption.id, text))
        self.entries[entry.id] = replace(entry, captions=tuple(captions))

    def _drop(self, what: str, key: str, reason: str, where: object) -> None:
        if self.on_error == "fail":
            raise InputError(f"{where}: {what} {key!r}: {reason}. Fix it, or pass --on-error skip.")
        self.dropped.append((key or "(no name)", reason))

    def result(self) -> CaptionSet:
        return CaptionSet(tuple(self.entries.values()), tuple(self.dropped))


def _read(path: Path) -> tuple[Iterable[ImageEntry], bool]:
    """Return the images of one path, and whether names of files decide splits or ids."""
    if path.is_dir():
        return _entities(path), True
    text = read_text(path)
    if not path.name.removesuffix(".gz").endswith(".json"):
        return _token_lines(text, path), False
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error}). Fetch the file again.") from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply for a captions file.") from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise InputError(f"{path}: no list 'images' in it; neither Karpathy's nor COCO's layout.")
    if "annotations" in document:
        return _coco(document, path), True
    return _karpathy(document["images"], path), False


@contextlib.contextmanager
def _layout(where: str) -> Iterator[None]:
    """Turn missing keys and values of another type into an InputError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where}: {what}; not a captions file of a known layout.") from error


def _karpathy(images: Iterable[dict[str, Any]], path: Path) -> Iterator[ImageEntry]:
    for number, image in enumerate(images):
        with _layout(f"{path}: images[{number}]"):
            name = str(image["filename"])
            captions = []
            for at, sentence in enumerate(image.get("sentences") or ()):
                if not isinstance(sentence, dict):
                    raise TypeError(f"caption {at} of {name!r} is no object with 'raw'")
                raw, sentid = sentence.get("raw"), sentence.get("sentid")
                text = " ".join(sentence["tokens"]) if raw is None else str(raw)
                captions.append(Caption(f"{name}#{at}" if sentid is None else str(sentid), text))
            folder = image.get("filepath")
            file = f"{folder}/{name}" if folder else name
            split = str(image.get("split") or "")
        yield ImageEntry(name, file, split, tuple(captions))


def _coco(document: dict[str, Any], path: Path) -> Iterator[ImageEntry]:
    split = next((s for s in ("train", "val", "test") if s in path.name), "")
    with _layout(f"{path}: images"):
        captions: dict[Any, list[Caption]] = {image["id"]: [] for image in document["images"]}
        names = [(image["id"], str(image["file_name"])) for image in document["images"]]
    for number, note in enumerate(document["annotations"]):
        where = f"{path}: annotations[{number}]"
        with _layout(where):
            if note["image_id"] not in captions:
                raise InputError(
                    f"{where}: image_id {note['image_id']!r} is not in 'images'; the file is "
                    "incomplete."
                )
            if "caption" not in note:
                raise InputError(f"{where} has no 'caption'. Is this an instances file?")
            captions[note["image_id"]].append(Caption(str(note["id"]), str(note["caption"])))
    for key, name in names:
        yield ImageEntry(name, name, split, tuple(captions[key]))


def _token_lines(text: str, path: Path) -> Iterator[ImageEntry]:
    captions: dict[str, list[Caption]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.partition("#")
        if not (tab and hash_sign and name):
            raise InputError(
                f"{path}: line {number} is not 'image.jpg#k<TAB>caption': {line[:60]!r}. Other "
                "layouts are .json, .json.gz and the folder Sentences of Flickr30k Entities."
            )
        captions.setdefault(name, []).append(Caption(key.strip(), caption))
    for name, items in captions.items():
        yield ImageEntry(name, name, NO_SPLIT, tuple(items))


def _entities(folder: Path) -> Iterator[ImageEntry]:
    for path in sorted(folder.glob("*.txt")):
        name = f"{path.stem}.jpg"
        lines = [MARKED.sub(r"\3", line) for line in read_text(path).split("\n") if line.strip()]
        if any("[/EN#" in line for line in lines):
            raise InputError(f"{path}: a phrase is not closed: '[/EN#id/type words]' expected.")
        captions = tuple(Caption(f"{name}#{k}", line) for k, line in enumerate(lines))
        yield ImageEntry(name, name, NO_SPLIT, captions)
