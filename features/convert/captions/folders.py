"""Captions in folders: photos with texts beside them, img2dataset, webdataset tars, Entities."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from features.convert.captions.cleaning import SPLIT_ALIASES
from features.convert.captions.collection import Collector
from features.convert.readers.entities import MARKED
from features.convert.safe.inputs import damaged, opened, read_text, split_lines, visible
from features.convert.safe.json_files import parse_json
from features.convert.safe.values import brief
from features.decoding import SUFFIXES
from features.errors import InputError
from features.names import hidden
from features.records import Caption, ImageEntry
from features.tar_files import check_end

TEXTS = (".txt", ".caption")  # files of captions beside a photo, one caption a line
_MAX_TEXT = 1 << 20  # bytes of the captions of one image


def walk(root: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it, in order; hidden ones are left out."""
    for folder, names, files in os.walk(root, followlinks=True):
        inside = Path(folder)
        real = inside.resolve()
        loops = [name for name in names if real.is_relative_to((inside / name).resolve())]
        names[:] = sorted(name for name in names if not hidden(name) and name not in loops)
        for file in sorted(files):
            if not hidden(file):
                yield (inside / file).relative_to(root).as_posix()


def split_of_folder(file: str) -> str:
    """Return the split that the first folder of a file is called after, "" without one.

    >>> split_of_folder("train/dogs/1.jpg"), split_of_folder("dogs/train/1.jpg")
    ('train', '')
    """
    first, slash, _ = file.partition("/")
    return SPLIT_ALIASES.get(first.lower(), "") if slash else ""


def _parts(file: str) -> tuple[str, str]:
    """Return a file without its suffix, and the suffix in lower case.

    >>> _parts("a.b/1.tar.JPG"), _parts("a.b/1")
    (('a.b/1.tar', '.jpg'), ('a.b/1', ''))
    """
    suffix = PurePosixPath(file).suffix
    return file[: len(file) - len(suffix)], suffix.lower()


def has_photos(root: Path) -> bool:
    """Return whether there is a photo below a folder."""
    return any(file.lower().endswith(SUFFIXES) for file in walk(root))


def read_photo_folder(root: Path, collector: Collector) -> list[Path]:
    """Add photos with captions beside them: ``dogs/1.jpg`` with ``dogs/1.txt``, one a line.

    img2dataset writes such folders, with ``1.json`` for the rest; its ``caption`` counts where
    there is no text. Texts and tables without a photo are left out and counted. Returns the files
    of captions.
    """
    photos: dict[str, str] = {}
    texts: dict[str, str] = {}
    twice: set[str] = set()
    for file in walk(root):
        stem, suffix = _parts(file)
        if suffix in SUFFIXES:
            if stem in photos:
                reason = f"{photos[stem]} and {file} have the same captions file"
                collector.drop("image", file, reason, root)
                twice.add(stem)  # nothing says which of them the captions describe
                continue
            photos[stem] = file
        elif suffix in TEXTS or (suffix == ".json" and stem not in texts):
            texts[stem] = file
    used = []
    for stem, file in photos.items():
        beside = texts.pop(stem, "")
        if stem in twice:  # counted and named above
            continue
        if not beside:
            reason = f"no captions beside it ({PurePosixPath(stem).name}.txt)"
            collector.drop("image", file, reason, root)
            continue
        used.append(root / beside)
        try:
            captions = _captions(beside, read_text(root / beside), file)
        except InputError as error:
            collector.drop("image", file, str(error).rstrip("."), root)
            continue
        collector.add(ImageEntry(file, file, split_of_folder(file), captions), root)
    for file in texts.values():
        if not file.endswith("_stats.json"):
            collector.leave_out(file, "no photo beside it")
    return used


def _captions(file: str, text: str, image: str) -> tuple[Caption, ...]:
    if file.lower().endswith(".json"):
        document = parse_json(text.encode("utf-8", "surrogatepass"), file)
        caption = document.get("caption") if isinstance(document, dict) else None
        if not isinstance(caption, str):
            raise InputError(f"{file}: 'caption' is {brief(caption)}, not text.")
        lines = [caption]
    else:
        lines = [line for line in split_lines(text) if line.strip()]
    return tuple(Caption(f"{image}#{at}", line) for at, line in enumerate(lines))


def read_tar(path: Path, collector: Collector, prefix: str = "") -> None:
    """Add the samples of a webdataset tar: members that share a name up to the first dot.

    A sample has a photo and a ``.txt``, or a ``.json`` with ``caption``. The file of an image is
    ``NAME.tar/MEMBER``, below the folder of the tar.

    Raises: InputError: not a complete tar.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    twice: dict[str, str] = {}  # sample -> two files of one kind
    kinds = (tarfile.TarError, EOFError, ValueError, OSError)
    with (
        opened(path) as file,
        damaged(f"{path}: not a complete tar", *kinds, advice="Fetch it again."),
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or any(hidden(part) for part in parts if part != ".."):
                continue
            stem, suffix = _parts(member.name)
            kind = "photo" if suffix in SUFFIXES else suffix
            if kind == "photo" or kind in TEXTS or kind == ".json":
                before = samples.setdefault(stem, {}).setdefault(kind, member)
                if before is not member:
                    twice[stem] = f"both {before.name} and {member.name}"
        check_end(archive, file)
        for stem, sample in samples.items():
            where = f"{prefix}{path.name}/{stem}"
            if stem in twice:
                collector.drop("image", where, f"the tar has {twice[stem]}", path)
                continue
            if "photo" not in sample:
                collector.leave_out(where, "no photo of this name in the tar")
                continue
            image = f"{prefix}{path.name}/{sample['photo'].name}"
            beside = next((sample[kind] for kind in (*TEXTS, ".json") if kind in sample), None)
            if beside is None:
                collector.drop("image", image, "no captions of this name in the tar", path)
                continue
            try:
                if beside.size > _MAX_TEXT:
                    raise InputError(f"{beside.name}: {beside.size:,} bytes, too many for captions")
                stream = archive.extractfile(beside)
                raw = stream.read() if stream is not None else b""
                with damaged(f"{beside.name}: not UTF-8 text", UnicodeDecodeError):
                    text = raw.decode("utf-8-sig")
                captions = _captions(beside.name, text, image)
            except InputError as error:
                collector.drop("image", image, str(error).rstrip("."), path)
                continue
            collector.add(ImageEntry(image, image, split_of_folder(image), captions), path)


def read_entities(folder: Path, collector: Collector) -> list[Path]:
    """Add the captions of Flickr30k Entities' folder ``Sentences``; return its files.

    Raises: InputError: a marked phrase is not closed.
    """
    files = visible(folder, "*.txt")
    for path in files:
        name = f"{path.stem}.jpg"
        text = read_text(path)
        if "[/EN#" not in text and not any(letter.isdigit() for letter in path.stem):
            collector.leave_out(path.name, "no marked phrase, and not named like an image")
            continue
        lines = [MARKED.sub(r"\3", line) for line in text.split("\n") if line.strip()]
        if any("[/EN#" in line for line in lines):
            raise InputError(f"{path}: a phrase is not closed: '[/EN#id/type words]' expected.")
        captions = tuple(Caption(f"{name}#{k}", line) for k, line in enumerate(lines))
        collector.add(ImageEntry(name, name, "", captions), path)
    return files
