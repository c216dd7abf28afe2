"""Make batches of parsed captions: one table look-up per token, vectorised padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.batches.batch import CaptionBatch
from features.format import ROLES, find_column, pack_text, pack_tokens
from features.reading import CodedColumn, StoreReader, flat_rows, pad
from features.records import TextGraph
from features.vocab import Codebook

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]

_START, _END = 1, 2
_OTHER = ROLES.index("other")


@dataclass(frozen=True, slots=True)
class CaptionColumns:
    """The columns of captions that a batch needs, from a store or from records."""

    token_offsets: Array
    form: CodedColumn
    xpos: CodedColumn
    head: Array
    role: Array
    object_offsets: Array
    object_lemma: CodedColumn
    relation_offsets: Array
    relation_subject: Array
    relation_object: Array
    relation_predicate: CodedColumn

    @classmethod
    def of_store(cls, store: StoreReader) -> CaptionColumns:
        """Return the columns of all captions of a store."""
        columns = {
            name: store.coded(name) if find_column(name)[1].kind == "coded" else store.column(name)
            for name in cls.__dataclass_fields__
        }
        return cls(**columns)  # type: ignore[arg-type]

    @classmethod
    def of_graphs(cls, graphs: Sequence[TextGraph]) -> CaptionColumns:
        """Return the columns of parsed captions."""
        packed = {**pack_tokens(graphs), **pack_text(graphs)}
        columns = {
            name: packed[name] if name in packed else CodedColumn.of_shard(packed, name)
            for name in cls.__dataclass_fields__
        }
        return cls(**columns)  # type: ignore[arg-type]


def caption_batch(graphs: Sequence[TextGraph], codebook: Codebook) -> CaptionBatch:
    """Return the batch of parsed captions that are not in a store; their rows are -1, -2 ..."""
    encoder = CaptionEncoder(CaptionColumns.of_graphs(graphs), codebook)
    rows = np.arange(len(graphs))
    return encoder.batch(rows, image_rows=-1 - rows, shown_rows=-1 - rows)


class CaptionEncoder:
    """Make batches of captions with the ids of a codebook.

    Args:
        columns: the captions.
        codebook: ids of words, tags and word pieces.
    """

    def __init__(self, columns: CaptionColumns, codebook: Codebook):
        self.columns, self.codebook = columns, codebook
        words = codebook.words
        self._word_of_form = words.ids(name.lower() for name in columns.form.names)
        self._tag_of_code = codebook.tags.ids(columns.xpos.names)
        self._words_of_object = _phrases(columns.object_lemma.names, codebook)
        self._words_of_predicate = _phrases(columns.relation_predicate.names, codebook)
        pieces = codebook.pieces
        self._pieces_of_form = (
            None if pieces is None else _csr([pieces.encode(name) for name in columns.form.names])
        )

    def batch(
        self, rows: Index, image_rows: Index, *, shown_rows: Index | None = None
    ) -> CaptionBatch:
        """Return a batch of captions.

        Args:
            rows: (C,) rows of the captions in ``columns``.
            image_rows: (C,) ``CaptionBatch.image_rows``.
            shown_rows: (C,) ``CaptionBatch.rows``; ``rows`` if not given.
        """
        return _assemble(self._arrays(rows, image_rows, rows if shown_rows is None else shown_rows))

    def batches(self, rows: Index, image_rows: Index, size: int) -> list[CaptionBatch]:
        """Return batches of ``size`` captions, equal to those that ``batch`` returns one by one.

        A batch takes many small calls of numpy; several batches at once take no more.
        """
        whole = self._arrays(rows, image_rows, rows)
        starts = np.arange(0, len(rows), size)
        used = whole["triplet_spans"].sum(-1)  # words of each triplet, (C, P)
        needed = {
            "words": whole["word_mask"].sum(1),
            "count": (used > 0).sum(1),
            "triplets": used.max(1) + 2,
        }
        if "piece_words" in whole:
            needed["pieces"] = (whole["piece_words"] >= 0).sum(1)
        widths = {name: np.maximum.reduceat(each, starts) for name, each in needed.items()}
        batches = []
        for number, start in enumerate(starts.tolist()):
            width = {name: int(each[number]) for name, each in widths.items()}
            count, length = max(width["count"], 1), max(width["triplets"], 3)
            trimmed = {}
            for name, array in whole.items():
                part = array[start : start + size]
                if name == "triplets":
                    part = part[:, :count, :length]
                elif name == "triplet_spans":
                    part = part[:, :count]
                elif part.ndim == 2:
                    part = part[:, : width["pieces" if name.startswith("piece") else "words"]]
                trimmed[name] = np.ascontiguousarray(part)
            batches.append(_assemble(trimmed))
        return batches

    def _arrays(self, rows: Index, image_rows: Index, shown_rows: Index) -> dict[str, Array]:
        """Return the fields of a batch as numpy arrays."""
        columns = self.columns
        at, owner, place = flat_rows(columns.token_offsets, rows)
        lengths = columns.token_offsets[rows + 1] - columns.token_offsets[rows]
        width = int(lengths.max(initial=0)) + 2
        shape = (len(rows), width)
        each = np.arange(len(rows))
        forms = columns.form.codes[at]
        words = pad(self._word_of_form[forms], owner, place + 1, shape)
        words[:, 0], words[each, lengths + 1] = _START, _END
        tags = pad(self._tag_of_code[columns.xpos.codes[at]], owner, place + 1, shape)
        tags[:, 0] = tags[each, lengths + 1] = 1
        roles = pad(columns.role[at], owner, place + 1, shape)
        roles[:, 0] = roles[each, lengths + 1] = _OTHER
        head = columns.head[at].astype(np.int64)
        heads = pad(np.where(head < 0, -1, head + 1), owner, place + 1, shape, fill=-1)
        triplets, spans = self._triplets(rows)
        pieces, piece_words = self._pieces(forms, owner, place, lengths)
        arrays = {
            "rows": np.array(shown_rows),
            "image_rows": np.array(image_rows),
            "words": words,
            "word_mask": np.arange(width) < lengths[:, None] + 2,
            "tags": tags,
            "roles": roles,
            "heads": heads,
            "triplets": triplets,
            "triplet_spans": spans,
        }
        if pieces is not None and piece_words is not None:
            arrays |= {"pieces": pieces, "piece_words": piece_words}
        return arrays

    def _triplets(self, rows: Index) -> tuple[Index, Index]:
        """Return the words of all triplets, (C, P, L), and their spans, (C, P, 3)."""
        columns = self.columns
        at, owner, place = flat_rows(columns.relation_offsets, rows)
        first = columns.object_offsets[rows][owner]
        lemma = columns.object_lemma.codes
        subject = lemma[first + columns.relation_subject[at]]
        target = lemma[first + columns.relation_object[at]]
        predicate = columns.relation_predicate.codes[at]
        tables = (self._words_of_object, self._words_of_predicate, self._words_of_object)
        parts = [
            flat_rows(offsets, codes)
            for (offsets, _), codes in zip(tables, (subject, predicate, target), strict=True)
        ]
        lengths = np.stack([np.bincount(part[1], minlength=len(at)) for part in parts], axis=-1)
        count = int(place.max(initial=0)) + 1
        width = int(lengths.sum(-1).max(initial=1)) + 2
        spans = np.zeros((len(rows), count, 3), np.int64)
        spans[owner, place] = lengths
        words = np.zeros((len(rows), count, width), np.int64)
        words[owner, place, 0] = _START
        words[owner, place, lengths.sum(-1) + 1] = _END
        begins = 1 + np.cumsum(lengths, axis=-1) - lengths
        for part, (_, table), begin in zip(parts, tables, begins.T, strict=True):
            values, relation, position = part
            words[owner[relation], place[relation], begin[relation] + position] = table[values]
        return words, spans

    def _pieces(
        self, forms: Index, owner: Index, place: Index, lengths: Index
    ) -> tuple[Index | None, Index | None]:
        """Return word pieces, (C, S), and the word that each belongs to, -1 on padding."""
        if self._pieces_of_form is None or self.codebook.pieces is None:
            return None, None
        offsets, table = self._pieces_of_form
        values, token, _ = flat_rows(offsets, forms)
        caption = owner[token]
        counts = np.bincount(caption, minlength=len(lengths))
        position = 1 + np.arange(len(values)) - (np.cumsum(counts) - counts)[caption]
        shape = (len(lengths), int(counts.max(initial=0)) + 2)
        pieces = pad(table[values], caption, position, shape, fill=self.codebook.pieces.pad)
        words = pad(place[token] + 1, caption, position, shape, fill=-1)
        each = np.arange(len(lengths))
        pieces[:, 0], pieces[each, counts + 1] = self.codebook.pieces.cls, self.codebook.pieces.sep
        words[:, 0], words[each, counts + 1] = 0, lengths + 1
        return pieces, words


def _assemble(arrays: dict[str, Array]) -> CaptionBatch:
    import torch  # slow to load

    return CaptionBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _csr(lists: Sequence[Sequence[int]]) -> tuple[Index, Index]:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return offsets, np.asarray([value for values in lists for value in values], np.int64)


def _phrases(names: Sequence[str], codebook: Codebook) -> tuple[Index, Index]:
    """Return the word ids of each phrase as offsets and values; at least one word a phrase."""
    words = codebook.words
    return _csr([[words.id(w) for w in name.lower().split()] or [words.unknown] for name in names])
