"""Files of human ratings of image-caption pairs, and the scores that a model gives these pairs.

docs/captions.md describes the format: JSON or CSV with an image, a caption and ratings.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.batches import CaptionColumns, CaptionEncoder, ImageEncoder
from features.convert import brief, clean_text, need_file, read_json
from features.errors import InputError, MissingInput, UnknownName
from features.records import TextGraph
from features.store import Store
from features.vocab import Codebook
from models.evaluation.negatives import paired_scores

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COLUMNS = ("image", "caption", "rating")
_EXAMPLE = '[{"image": "1.jpg", "caption": "A dog runs.", "ratings": [4, 3]}, ...]'


@dataclass(frozen=True)
class Pair:
    """An image, a caption and its ratings."""

    image: str
    caption: str
    ratings: tuple[float, ...]


@dataclass(frozen=True)
class Judgements:
    """One set of ratings.

    Attributes:
        name: of the set, "" if the file has only one.   pairs: at least two.
        left_out: pairs whose caption is a reference of the image; they are not among ``pairs``.
    """

    name: str
    pairs: tuple[Pair, ...]
    left_out: int = 0


def read_judgements(path: Path) -> list[Judgements]:
    """Read a file of ratings.

    Raises:
        MissingInput: no such file.
        InputError: not such a file, a pair without an image, caption or finite rating, or a set
            whose ratings are all equal.
    """
    need_file(path)
    if path.suffix.lower() == ".csv":
        sets = {"": _csv_pairs(path)}
        references: Mapping[str, Any] = {}
    else:
        document = read_json(path)
        if isinstance(document, list):
            document = {"": document}
        if not isinstance(document, dict) or not document:
            raise InputError(f"{path}: expected a list of pairs: {_EXAMPLE}")
        references = _references(document.pop("references", {}), path)
        sets = {str(name): _json_pairs(items, name, path) for name, items in document.items()}
    return [_checked(name, pairs, references, path) for name, pairs in sets.items()]


def _json_pairs(items: Any, name: str, path: Path) -> list[Pair]:
    where = f"{path}: {name}" if name else str(path)
    if not isinstance(items, list):
        raise InputError(f"{where}: expected a list of pairs: {_EXAMPLE}")
    pairs = []
    for number, item in enumerate(items):
        at = f"{where}[{number}]"
        if not isinstance(item, dict):
            raise InputError(f"{at}: {item!r} is no object. Expected {_EXAMPLE}")
        given = [key for key in ("ratings", "rating", "yes") if key in item]
        if len(given) != 1:
            raise InputError(f"{at}: expected one of the keys 'ratings', 'rating' and 'yes'.")
        values = item[given[0]]
        values = values if isinstance(values, list) else [values]
        pairs.append(_pair(item.get("image"), item.get("caption"), values, at))
    return _joined(pairs)


def _csv_pairs(path: Path) -> list[Pair]:
    """Read a table with a row per rating; rows of the same image and caption are one pair."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}).") from error
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error}).") from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if sorted(head) != sorted(_COLUMNS):
        raise InputError(
            f"{path}: the first line must name the columns {', '.join(_COLUMNS)}, not {head}."
        )
    pairs = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(head):
            raise InputError(f"{path}: row {number} has {len(row)} columns instead of {len(head)}.")
        values = dict(zip(head, row, strict=True))
        plain = _NUMBER.fullmatch(values["rating"].strip())  # float() reads 1_0 as 10
        rating: Any = float(plain[0]) if plain else values["rating"]
        pairs.append(_pair(values["image"], values["caption"], [rating], f"{path}: row {number}"))
    return _joined(pairs)


def _joined(pairs: Sequence[Pair]) -> list[Pair]:
    """Return one pair for all with the same image and caption."""
    ratings: dict[tuple[str, str], list[float]] = {}
    for pair in pairs:
        ratings.setdefault((pair.image, pair.caption), []).extend(pair.ratings)
    return [Pair(image, caption, tuple(each)) for (image, caption), each in ratings.items()]


def _pair(image: Any, caption: Any, ratings: Sequence[Any], at: str) -> Pair:
    for name, value in (("image", image), ("caption", caption)):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{at}: {name} is {value!r}, expected a text.")
    if not ratings:
        raise InputError(f"{at}: there is no rating. Leave such pairs out.")
    numbers = []
    for value in ratings:
        try:
            number = float(value) if type(value) in (int, float) else math.nan
        except OverflowError:  # an integer of hundreds of digits
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{at}: the rating {brief(value)} is not a finite number.")
        numbers.append(number)
    text = clean_text(caption)
    if not text:
        raise InputError(f"{at}: caption is {caption!r}, expected a text.")
    return Pair(image, text, tuple(numbers))


def _references(document: Any, path: Path) -> dict[str, frozenset[str]]:
    if not isinstance(document, dict) or not all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        for texts in document.values()
    ):
        raise InputError(f"{path}: 'references' must be an object: image -> list of captions.")
    return {name: frozenset(map(clean_text, texts)) for name, texts in document.items()}


def _checked(
    name: str, pairs: list[Pair], references: Mapping[str, frozenset[str]], path: Path
) -> Judgements:
    kept = [pair for pair in pairs if pair.caption not in references.get(pair.image, ())]
    if len({value for pair in kept for value in pair.ratings}) < 2:
        where = f"{path}: {name}" if name else str(path)
        raise InputError(f"{where}: {len(kept)} pairs with less than two different ratings.")
    return Judgements(name, tuple(kept), len(pairs) - len(kept))


def image_rows(pairs: Sequence[Pair], store: Store, source: Path) -> Ints:
    """Return the row of each pair's image.

    Args:
        pairs: the pairs.   store: has the images.   source: file of the pairs, for messages.

    Raises: UnknownName: an image is not in the store, or was skipped when it was built.
    """
    try:
        rows: Ints = store.rows([pair.image for pair in pairs])
    except UnknownName as error:
        raise UnknownName(f"{source}: {error}") from error
    if not store.usable[rows].all():
        skipped = pairs[int(np.flatnonzero(~store.usable[rows])[0])].image
        raise UnknownName(
            f"{source}: image {skipped!r} was skipped when {store.path} was built: "
            f"{store.skipped[skipped]}"
        )
    return rows


def score_pairs(
    model: Any,
    store: Store,
    codebook: Codebook,
    rows: Ints,
    graphs: Sequence[TextGraph],
    which: Ints,
    *,
    device: torch.device,
    batch_size: int = 64,
) -> npt.NDArray[np.float32]:
    """Score captions with one image each.

    Args:
        model: the model.   store: has the images.   codebook: of the model.
        rows: (n,) image rows.   graphs: parsed captions.   which: (n,) caption of each pair.
        device: of the model.   batch_size: images encoded at a time.

    Returns:
        (n,) scores.
    """
    import torch  # slow to load

    order = np.argsort(rows, kind="stable")
    images, place = np.unique(rows, return_inverse=True)
    encode = ImageEncoder(store, codebook)
    captions = CaptionEncoder(CaptionColumns.of_graphs(graphs), codebook)
    scores = np.zeros(len(rows), np.float32)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            code = model.encode_images(encode.batch(images[start : start + batch_size]).to(device))
            first, last = np.searchsorted(place[order], (start, start + batch_size))
            for some in _parts(order[first:last]):
                batch = captions.batch(which[some], rows[some], shown_rows=-1 - some)
                texts = model.encode_captions(batch.to(device))
                owner = torch.from_numpy(place[some] - start).to(device)
                scores[some] = paired_scores(model, code, texts, owner).float().cpu().numpy()
    return scores


def _parts(rows: Ints, size: int = 512) -> Iterator[Ints]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
