"""Columns of one shard -> records: what a stage reads of the stage before it.

A stage works shard by shard and must not open the whole store; ``features.store`` is the reader for
everything else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError
from features.format.schema import Columns
from features.format.shard import hash_rest
from features.format.sidecar import read_sidecar, shard_file
from features.reading.columns import decode_texts
from features.reading.mmap import Piece, open_checked
from features.records import Caption, ImageEntry, TextGraph

__all__ = ["read_columns", "sentence_starts", "unpack_index", "unpack_tokens"]


def read_columns(folder: Path, number: int) -> Columns:
    """Read all datasets of one shard into memory; they and all other bytes are checked.

    Raises:
        FormatError: the shard is not there.
        DamagedError: its bytes are not those that were written.
    """
    record = read_sidecar(folder, number)
    path = shard_file(folder, number)
    columns: Columns = {}
    descriptor = open_checked(Piece(str(path), record.size))
    try:
        for name, part in record.parts.items():
            data = os.pread(descriptor, part.nbytes, part.offset)
            if hashlib.sha256(data).hexdigest() != part.sha256:
                raise DamagedError(
                    f"{path}: column {name!r} is not what was written. Repair it: "
                    "python -m features verify --repair STORE, then build again."
                )
            columns[name] = np.frombuffer(data, part.dtype).reshape(part.shape)
    finally:
        os.close(descriptor)
    if hash_rest(path, record.size, record.parts.values()) != record.rest:
        raise DamagedError(
            f"{path}: the HDF5 headers are not what was written. Repair it: "
            "python -m features verify --repair STORE, then build again."
        )
    return columns


def unpack_index(columns: Columns) -> list[ImageEntry]:
    """Return the images of one shard of the index with their captions."""
    ids, files = _text(columns, "image_id"), _text(columns, "image_file")
    splits = _coded(columns, "split")
    captions = [
        Caption(name, text)
        for name, text in zip(_text(columns, "caption_id"), _text(columns, "caption"), strict=True)
    ]
    ends = columns["caption_offsets"].tolist()
    return [
        ImageEntry(ids[row], files[row], splits[row], tuple(captions[ends[row] : ends[row + 1]]))
        for row in range(len(ids))
    ]


def unpack_tokens(columns: Columns, captions: Sequence[str]) -> list[TextGraph]:
    """Return the parsed captions of one shard of the tokens group.

    Args:
        columns: datasets of the shard.
        captions: the texts of its captions, from the same shard of the index.
    """
    fields = {
        "tokens": _coded(columns, "form"),
        "lemmas": _coded(columns, "lemma"),
        "upos": _coded(columns, "upos"),
        "xpos": _coded(columns, "xpos"),
        "deprels": _coded(columns, "deprel"),
        "heads": columns["head"].tolist(),
    }
    schemes, problems = _coded(columns, "scheme"), _coded(columns, "parse_problem")
    ends = columns["token_offsets"].tolist()
    graphs = []
    for row, caption in enumerate(captions):
        span = slice(ends[row], ends[row + 1])
        cut: dict[str, Any] = {name: tuple(values[span]) for name, values in fields.items()}
        graphs.append(
            TextGraph(
                caption,
                scheme=schemes[row],
                problem=problems[row],
                sentence_starts=sentence_starts(cut["heads"]),
                **cut,
            )
        )
    return graphs


def sentence_starts(heads: Sequence[int]) -> tuple[int, ...]:
    """Return the first token of each sentence; a sentence is what hangs on one root.

    >>> sentence_starts([1, -1, 1, 4, -1])
    (0, 3)
    """
    first: dict[int, int] = {}
    for token in range(len(heads)):
        root = token
        for _ in heads:  # a cycle, which no parse has, would end here too
            if heads[root] < 0:
                break
            root = heads[root]
        first.setdefault(root, token)
    return tuple(sorted(first.values()))


def _text(columns: Columns, name: str) -> list[str]:
    return decode_texts(columns[f"{name}/bytes"], _int64(columns[f"{name}/offsets"]))


def _coded(columns: Columns, name: str) -> list[str]:
    names = _text(columns, f"{name}/names")
    return [names[code] for code in columns[f"{name}/codes"].tolist()]


def _int64(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    return values.astype(np.int64, copy=False)
