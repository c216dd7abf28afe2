"""Captions in one JSON document: Karpathy's files, COCO's, and plain lists of objects."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from features.convert.captions.cleaning import split_in_name
from features.convert.captions.collection import Collector
from features.convert.captions.tables import TableRows
from features.convert.safe.inputs import damaged, read_text
from features.convert.safe.json_files import unique_keys
from features.convert.safe.values import brief, text_of
from features.errors import InputError
from features.names import plain_path
from features.records import Caption, ImageEntry


def read_document(path: Path, collector: Collector) -> None:
    """Add the images of a JSON file to a collector.

    Raises: InputError: broken JSON, a key that is listed twice, or no known layout.
    """
    text = read_text(path)
    with damaged(f"{path}: broken JSON", ValueError, advice="Fetch the file again."):
        try:
            document = json.loads(text, object_pairs_hook=unique_keys)
        except RecursionError as error:
            raise InputError(f"{path}: JSON nested too deeply for a captions file.") from error
        except json.JSONDecodeError as error:
            if error.msg != "Extra data" or not _is_lines(text):
                raise
            document = None
    if document is None:  # objects line by line, in spite of the name
        rows = TableRows(path, collector)
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                rows.add_json(line.encode("utf-8", "surrogatepass"), number)
    elif isinstance(document, list):
        rows = TableRows(path, collector)
        for number, item in enumerate(document):
            rows.add(item, f"item {number}")
    elif not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise InputError(
            f"{path}: no list 'images' in it; neither Karpathy's nor COCO's layout. "
            "docs/importing.md lists the layouts."
        )
    elif "annotations" in document:
        _coco(document, path, collector)
    else:
        _karpathy(document["images"], path, collector)


def _is_lines(text: str) -> bool:
    """Return whether the first line is a JSON object of its own."""
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text.split("\n", 1)[0]), dict)
    return False


@contextlib.contextmanager
def _layout(where: str) -> Iterator[None]:
    """Turn missing keys and values of another type into an InputError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where}: {what}; not a captions file of a known layout.") from error


def _reason(error: InputError) -> str:
    return str(error).rstrip(".")


def _missing(value: object) -> bool:
    """Return whether a value stands for nothing: null, or NaN as pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _karpathy(images: Iterable[dict[str, Any]], path: Path, collector: Collector) -> None:
    for number, image in enumerate(images):
        where = f"images[{number}]"
        with _layout(f"{path}: {where}"):
            given = image["filename"]
            sentences = image.get("sentences") or ()
            folder, split = image.get("filepath"), image.get("split")
            if not isinstance(sentences, (list, tuple, dict, str)):
                raise TypeError(f"'sentences' is {brief(sentences)}, not a list")
        try:
            name = text_of(where, "'filename'", given)
            folder = "" if _missing(folder) else text_of(where, "'filepath'", folder)
            split = "" if _missing(split) else text_of(where, "'split'", split)
        except InputError as error:
            shown = given if isinstance(given, str) else "" if _missing(given) else brief(given)
            collector.drop("image", shown[:80], _reason(error), path)
            continue
        captions = []
        for at, sentence in enumerate(sentences):
            if not isinstance(sentence, dict):
                raise InputError(
                    f"{path}: {where}: caption {at} of {name!r} is no object with 'raw'; not a "
                    "captions file of a known layout."
                )
            key = f"{name}#{at}"
            try:
                if not _missing(sentence.get("sentid")):
                    key = text_of(where, "'sentid'", sentence["sentid"])
                captions.append(Caption(key, _sentence(where, sentence)))
            except InputError as error:
                collector.drop("caption", key, _reason(error), path)
        collector.add(
            ImageEntry(name, f"{folder}/{name}" if folder else name, split, tuple(captions)), path
        )
        with contextlib.suppress(InputError):  # a number that is none is not needed for captions
            if not _missing(imgid := image.get("imgid")) and imgid != "":
                collector.numbers[plain_path(name)] = text_of(where, "'imgid'", imgid)


def _sentence(where: str, sentence: Mapping[str, Any]) -> str:
    """Return the text of a caption; its tokens where the text is missing."""
    raw = sentence.get("raw")
    if isinstance(raw, str):
        return raw
    tokens = sentence.get("tokens")
    if isinstance(tokens, list) and tokens and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    raise InputError(f"{where}: 'raw' is {brief(raw)}, not text, and there are no 'tokens'.")


def _coco(document: dict[str, Any], path: Path, collector: Collector) -> None:
    split = split_in_name(path.name)
    captions: dict[object, list[Caption]] = {}
    with _layout(f"{path}: images"):
        names = [(image["id"], image["file_name"]) for image in document["images"]]
        captions = {key: [] for key, _ in names}
        if any(isinstance(key, bool) for key in captions):
            raise TypeError("an 'id' is true or false, not a number")
    if len(captions) < len(names):
        raise InputError(f"{path}: two of its 'images' have the same id.")
    if not isinstance(document["annotations"], list):
        raise InputError(f"{path}: 'annotations' is {brief(document['annotations'])}, not a list.")
    for number, note in enumerate(document["annotations"]):
        where = f"{path}: annotations[{number}]"
        with _layout(where):
            owner, text, key = note["image_id"], note.get("caption"), note["id"]
            known = owner in captions and not isinstance(owner, bool)  # True equals 1
        if not known:
            raise InputError(
                f"{where}: image_id {brief(owner)} is not in 'images'; the file is incomplete."
            )
        if "caption" not in note:
            raise InputError(
                f"{where} has no 'caption'. Is this an instances file? Those are detections: "
                "--detector coco --detections FILE."
            )
        try:
            if not isinstance(text, str):
                raise InputError(f"'caption' is {brief(text)}, not text")
            captions[owner].append(Caption(text_of(f"annotations[{number}]", "'id'", key), text))
        except InputError as error:
            collector.drop("caption", brief(key), _reason(error), path)
    for key, given in names:
        try:
            name = text_of(f"image {brief(key)}", "'file_name'", given)
        except InputError as error:
            collector.drop("image", brief(key), _reason(error), path)
            continue
        collector.add(ImageEntry(name, name, split, tuple(captions[key])), path)
