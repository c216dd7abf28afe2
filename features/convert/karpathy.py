"""Captions for an import, in Karpathy's schema.

``{"images": [{"filename", "split", "imgid", "cocoid", "sentences": [{"sentid", "raw"}]}]}``, plain
or gzip. Builds from photos read more layouts (``pipeline.captions``); an import needs just the one
that every precomputed feature set is published with.
"""

from __future__ import annotations

import gzip
import html
import json
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from features.convert.source import need_file
from features.errors import InputError
from features.records import Caption, ImageEntry

__all__ = ["read_karpathy"]

_SPLITS = {"restval": "train", "dev": "val", "": "unsplit"}


def read_karpathy(path: Path | str) -> list[ImageEntry]:
    """Read the images and captions of a Karpathy file.

    Raises:
        MissingInput: no such file.
        InputError: not such a file, a picture twice.
    """
    path = need_file(path)
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
        images = document["images"]
        entries = [_entry(image, f"{path}, image {at}") for at, image in enumerate(images)]
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a captions file in Karpathy's schema ({error!r})."
        ) from error
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise InputError(f"{path}: image {entry.id!r} stands twice.")
        seen.add(entry.id)
    return entries


def _entry(image: dict[str, Any], where: str) -> ImageEntry:
    file = str(image["filename"])
    split = str(image.get("split") or "")
    captions = []
    for at, sentence in enumerate(image.get("sentences") or []):
        text = " ".join(html.unescape(str(sentence.get("raw") or "")).split())
        if not text:
            text = " ".join(map(str, sentence.get("tokens") or []))
        if not text:
            raise InputError(f"{where}: caption {at} of {file!r} is empty.")
        captions.append(Caption(str(sentence.get("sentid", f"{file}#{at}")), text))
    return ImageEntry(
        id=file,
        file=str(PurePosixPath(str(image.get("filepath") or "")) / file),
        split=_SPLITS.get(split, split),
        captions=tuple(captions),
    )
