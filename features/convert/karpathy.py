"""Captions for an import, in Karpathy's schema.

``{"images": [{"filename", "split", "imgid", "cocoid", "sentences": [{"sentid", "raw"}]}]}``, plain
or gzip. Builds from photos read more layouts (``features.convert.captions``); an import needs just the one
that every precomputed feature set is published with.
"""

from __future__ import annotations

import gzip
import html
import json
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from features.convert.safe.inputs import need_file, opened
from features.errors import InputError
from features.names import bad_file, bad_name, bad_split, bad_text
from features.records import Caption, ImageEntry

__all__ = ["check_entries", "read_karpathy"]

_MOST = 1 << 30  # bytes of an unpacked captions file; COCO's has 144 MB
_RATIO = 100  # JSON of captions shrinks to a fifth, a bomb to a thousandth
_SPLITS = {"restval": "train", "dev": "val", "": "unsplit"}


def read_karpathy(path: Path | str) -> list[ImageEntry]:
    """Read the images and captions of a Karpathy file.

    Raises:
        MissingInput: no such file.
        InputError: not such a file, a picture or caption twice, a name that leads out of a folder.
    """
    path = need_file(path)
    try:
        images = json.loads(_read(path))["images"]
        entries = [_entry(image, f"{path}, image {at}") for at, image in enumerate(images)]
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a captions file in Karpathy's schema ({error!r})."
        ) from error
    check_entries(path, entries)
    return entries


def _read(path: Path) -> bytes:
    """Return the bytes of a plain or gzipped file, of a gzip bomb no more than its limit.

    Raises: InputError: it unpacks to more than captions can be.
    """
    with opened(path) as file:
        head = file.read(2)
        if head != b"\x1f\x8b":
            return head + file.read()
        file.seek(0)
        limit = min(_MOST, max(1 << 26, _RATIO * path.stat().st_size))
        with gzip.GzipFile(fileobj=file) as packed:
            raw = packed.read(limit + 1)
    if len(raw) > limit:
        raise InputError(
            f"{path}: unpacks to more than {limit:,} bytes, which no captions file does. "
            "If it is one, unpack it first."
        )
    return raw


def check_entries(where: object, entries: Iterable[ImageEntry]) -> None:
    """Check the names that a store takes over; exports make paths and lines of them.

    Raises: InputError: an id twice, a split or file that leads out of a folder, broken text.
    """
    images: set[str] = set()
    captions: set[str] = set()
    for entry in entries:
        image = f"{where}: image {entry.id!r}"
        if entry.id in images:
            raise InputError(f"{image} stands twice.")
        images.add(entry.id)
        reason = bad_name(entry.id) or bad_split(entry.split)
        if reason := reason or (bad_file(entry.file) if entry.file else ""):
            raise InputError(f"{image}: {reason}. Rename it in the file.")
        for caption in entry.captions:
            if caption.id in captions:
                raise InputError(
                    f"{image}: the caption id {caption.id!r} stands twice in the file. "
                    "Number the captions anew ('sentid'), or leave the ids out."
                )
            captions.add(caption.id)
            if reason := bad_name(caption.id) or bad_text(caption.text):
                raise InputError(f"{image}, caption {caption.id!r}: {reason}. Mend the file.")


def _entry(image: dict[str, Any], where: str) -> ImageEntry:
    file = str(image["filename"])
    split = str(image.get("split") or "")
    captions = []
    for at, sentence in enumerate(image.get("sentences") or []):
        if not isinstance(sentence, dict):
            raise InputError(f"{where}: caption {at} of {file!r} is no object with 'raw'.")
        text = " ".join(html.unescape(str(sentence.get("raw") or "")).split())
        if not text:
            text = " ".join(map(str, sentence.get("tokens") or []))
        if not text:
            raise InputError(f"{where}: caption {at} of {file!r} is empty.")
        number = sentence.get("sentid")
        captions.append(Caption(f"{file}#{at}" if number is None else str(number), text))
    return ImageEntry(
        id=file,
        file=str(PurePosixPath(str(image.get("filepath") or "")) / file),
        split=_SPLITS.get(split, split),
        captions=tuple(captions),
    )
