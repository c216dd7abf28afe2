"""Write SCAN's precomputed folder with GSMN's extra files, as the released loaders read them.

``docs/importing.md`` lists the files. In train an image has one row, in dev and test five.

Splits are train, dev (our val), test; if there are more than 1,000 test images, all go to
``testall`` and the first 1,000 to ``test``, as in COCO. Images with fewer than five captions are
left out and counted; of more captions, the first five are taken.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.convert.readers.gsmn_text import dependency_pairs, word_ids
from features.convert.readers.scan import CAPTIONS_PER_IMAGE
from features.convert.writers.outputs import Outputs, id_lines, write_floats
from features.errors import UsageError
from features.records import TextGraph
from features.vocab import Codebook

if TYPE_CHECKING:
    from features.store import Store

Index = npt.NDArray[np.int64]
_SPLITS = {"val": "dev"}  # ours -> SCAN's
_BASE = ("ims.npy", "caps.txt", "ids.txt")
_SIZED = ("ims_bbx.npy", "ims_size.npy")
_PARSED = ("precaps_stan.txt", "caps.json")
_DEV_CAPTIONS = 5000  # the length that the released loaders assume for dev
_FOLD_IMAGES = 1000
_BLOCK = 256  # images per write


def export_scan(
    store: Store,
    out: Outputs,
    splits: list[str] | None,
    *,
    min_count: int = 4,
    vocab: Path | str | None = None,
) -> list[str]:
    """Write the folder; return notes for the user.

    GSMN's files are written if the store has their data: boxes and all image sizes for the two box
    files, parsed captions for the three caption files.

    Args:
        store: a store with ``object_features``.
        out: the folder; its name becomes the name of the vocabulary.
        splits: names in the store; None for all.
        min_count: least count of a vocabulary word in training and validation captions.
        vocab: an existing ``*_vocab.json`` to use, for a released checkpoint.

    Raises: UsageError: the store has no region features or no image with five captions, or a name
        cannot be part of a file name or line.
    """
    if not store.has("object_features"):
        raise UsageError(f"{store.path}: SCAN needs region features; build the stage regions.")
    notes: list[str] = []
    chosen = list(dict.fromkeys(splits or store.splits))
    parts: dict[str, tuple[Index, Index]] = {}
    for split in chosen:
        images, captions = _five_each(store, split, notes)
        name = _SPLITS.get(split, split)
        if not len(images):
            continue
        if name in parts:
            raise UsageError(f"{store.path}: two splits are {name!r} in SCAN. Choose --splits.")
        if name == "test" and len(images) > _FOLD_IMAGES:
            parts["testall"] = images, captions
            images, captions = images[:_FOLD_IMAGES], captions[:_FOLD_IMAGES]
        parts[name] = images, captions
    if not parts:
        raise UsageError(f"{store.path}: no image of {chosen} has five captions.")
    codebook = Codebook.from_store(store, vocab, min_count=min_count) if store.has("form") else None
    sized = store.has("image_size") and all(
        bool((store.column("image_size")[images] > 0).all()) for images, _ in parts.values()
    )
    if (regions := store.row_shape("object_features")[0]) != 36:
        notes.append(f"{regions} regions per image; GSMN's loader requires 36.")
    if not sized:
        notes.append(
            "No *_ims_bbx.npy and *_ims_size.npy: the store does not have all image sizes."
        )
    if codebook is None:
        notes.append("No *_precaps_stan.txt and *_caps.json: the store has no parsed captions.")
    if "dev" in parts and parts["dev"][1].size < _DEV_CAPTIONS:
        notes.append(
            f"dev has {parts['dev'][1].size} captions; the released loaders assume "
            f"{_DEV_CAPTIONS} and read past its end."
        )
    names = [*_BASE, *(_SIZED if sized else ()), *(_PARSED if codebook else ())]
    paths = {(part, name): out.path(f"{part}_{name}") for part in parts for name in names}
    # readers use any file in the folder, and testall instead of test
    for name in (*_BASE, *_SIZED, *_PARSED):
        for part in {*parts, *(("testall",) if "test" in parts else ())}:
            if (part, name) not in paths:
                out.absent(f"{part}_{name}")
    if codebook:
        codebook.save_words(out.path(f"{out.target.resolve().name}_vocab.json"))
    ids = store.group("index").text("image_id")
    for part, (images, captions) in parts.items():
        copies = 1 if part == "train" else CAPTIONS_PER_IMAGE
        lines = id_lines(ids[row] for row in images.tolist())
        paths[part, "ids.txt"].write_text(lines, encoding="utf-8")
        _write_captions(store, paths[part, "caps.txt"], captions)
        _write_rows(store, paths[part, "ims.npy"], "object_features", images, copies)
        if sized:
            _write_rows(store, paths[part, "ims_bbx.npy"], "boxes", images, copies)
            _write_sizes(store, paths[part, "ims_size.npy"], images, copies)
        if codebook:
            words, pairs = (paths[part, name] for name in _PARSED)
            _write_words(_graphs(store, captions), codebook, words, pairs)
    return notes


def _five_each(store: Store, split: str, notes: list[str]) -> tuple[Index, Index]:
    """Return image rows (n,) and the rows of their first five captions (n, 5)."""
    images = store.image_rows(split)
    offsets = store.offsets("caption_offsets")
    counts = offsets[images + 1] - offsets[images]
    enough = counts >= CAPTIONS_PER_IMAGE
    if not enough.all():
        notes.append(f"{split}: {int((~enough).sum())} images have fewer than five captions.")
    if (counts > CAPTIONS_PER_IMAGE).any():
        n = int((counts > CAPTIONS_PER_IMAGE).sum())
        notes.append(f"{split}: {n} images have more than five captions; the first five are taken.")
    images = images[enough]
    return images, offsets[images][:, None] + np.arange(CAPTIONS_PER_IMAGE)


def _write_captions(store: Store, path: Path, captions: Index) -> None:
    texts = store.group("index").text("caption")
    with path.open("wb") as file:
        for row in captions.reshape(-1).tolist():
            line = " ".join(texts[row].split())  # a line break would shift all later captions
            file.write(line.encode("utf-8", "replace") + b"\n")


def _write_rows(store: Store, path: Path, column: str, images: Index, copies: int) -> None:
    parts = (images[at : at + _BLOCK] for at in range(0, len(images), _BLOCK))
    blocks = (store.gather(column, rows, dtype=np.float32).repeat(copies, axis=0) for rows in parts)
    write_floats(path, (len(images) * copies, *store.row_shape(column)), blocks)


def _write_sizes(store: Store, path: Path, images: Index, copies: int) -> None:
    """Write an object array that numpy 1 and 2, and Python 2, can load."""
    sizes = store.column("image_size")[images]
    entries = np.empty(len(images) * copies, dtype=object)
    for at, (width, height) in enumerate(np.repeat(sizes, copies, axis=0).tolist()):
        entries[at] = {"image_h": height, "image_w": width}
    header = {"descr": "|O", "fortran_order": False, "shape": entries.shape}
    # numpy 2 writes numpy._core, which numpy 1 does not have; both can load numpy.core
    data = pickle.dumps(entries, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.", 1)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(data)


def _graphs(store: Store, captions: Index) -> Iterator[TextGraph]:
    """Yield tokens and heads of captions; the store needs no triplets for them."""
    offsets, form, heads = store.offsets("token_offsets"), store.coded("form"), store.column("head")
    for row in captions.reshape(-1).tolist():
        span = slice(int(offsets[row]), int(offsets[row + 1]))
        tokens = tuple(form.names[code] for code in form.codes[span].tolist())
        yield TextGraph("", tokens, heads=tuple(heads[span].tolist()))


def _write_words(
    graphs: Iterator[TextGraph], codebook: Codebook, words_path: Path, pairs_path: Path
) -> None:
    ids: Any = {name: at for at, name in reversed(list(enumerate(codebook.words.names)))}
    with (
        words_path.open("w", encoding="ascii") as words,
        pairs_path.open("w", encoding="ascii") as pairs,
    ):
        pairs.write("[")
        for at, graph in enumerate(graphs):
            words.write(",".join(map(str, word_ids(graph, ids))) + "\n")
            pairs.write(f"{', ' if at else ''}{json.dumps(dependency_pairs(graph))}")
        pairs.write("]\n")
