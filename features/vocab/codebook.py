"""Codebooks: the tables that map words, labels, predicates and tags to the ids of a batch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError, FormatError, InputError, MissingInput
from features.format import canonical_json, read_sealed, replacing, write_sealed
from features.reading import CodedColumn, StoreReader, flat_rows
from features.vocab.parts import check_parts
from features.vocab.wordpiece import WordPiece

SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
_SPECIAL_NAMES = ("<pad>", "<unk>")
_TABLES = ("words", "labels", "predicates", "tags")
_ADVICE = "Restore the file from a copy; that of a run is needed for its weights."
_TRAINING_SPLITS = ("train", "restval", "val", "dev")

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Table:
    """Names with ids: 0 is padding and the empty name, ``unknown`` stands for all other names.

    >>> table = Table(("<pad>", "<unk>", "dog"), unknown=1)
    >>> table.id("dog"), table.id("cat"), table.id(""), len(table)
    (2, 1, 0, 3)
    """

    names: tuple[str, ...]
    unknown: int = 1
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {name: number for number, name in reversed(list(enumerate(self.names)))}
        object.__setattr__(self, "_ids", {**ids, "": 0})

    @classmethod
    def of(cls, names: Iterable[str]) -> Table:
        """Return a table of ``<pad>``, ``<unk>`` and then the names."""
        return cls((*_SPECIAL_NAMES, *(name for name in names if name)))

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.names)

    def __getitem__(self, number: int) -> str:
        """Return the name of an id."""
        return self.names[number]

    def id(self, name: str) -> int:
        """Return the id of a name."""
        return self._ids.get(name, self.unknown)

    def ids(self, names: Iterable[str]) -> Index:
        """Return the ids of many names, (n,) int64."""
        return np.asarray([self.id(name) for name in names], np.int64)


@dataclass(frozen=True, slots=True)
class Codebook:
    """The tables that map the strings of a store to the ids of a batch.

    Attributes:
        words: lower-cased word forms; ``<pad>`` 0, ``<start>`` 1, ``<end>`` 2, ``<unk>`` 3.
        labels: object labels; ``<pad>`` 0, ``<unk>`` 1.
        predicates: predicates of visual relations, like labels.
        tags: XPOS tags, like labels.
        pieces: word pieces of a BERT encoder, or None.
        without: parts of the visual graphs that batches leave out, names of ``PARTS``.

    Raises: UsageError: an unknown name in ``without``.
    """

    words: Table
    labels: Table
    predicates: Table
    tags: Table
    pieces: WordPiece | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", check_parts(self.without))

    @classmethod
    def from_store(
        cls,
        store: StoreReader,
        vocab: str | Path | None = None,
        *,
        min_count: int = 4,
        pieces: str | Path | None = None,
        without: Sequence[str] = (),
    ) -> Codebook:
        """Return the codebook of a store.

        Words are the word forms of the training and validation captions and the words of their
        triplets that occur at least ``min_count`` times, and all words of labels and predicates;
        most frequent first, ties in alphabetical order. If the store has no training or validation
        split, all its captions count.

        Args:
            store: the store.
            vocab: file to take the words from instead: a SCAN ``*_vocab.json`` or a codebook.
            min_count: minimum number of occurrences of a word.
            pieces: BERT ``vocab.txt`` or ``tokenizer.json``, to fill ``CaptionBatch.pieces``.
            without: parts of the visual graphs that batches leave out, names of ``PARTS``.
        """
        labels, predicates, tags = (
            _ranked(_counts(store.coded(name))) if store.has(name) else []
            for name in ("labels", "predicates", "xpos")
        )
        if vocab is not None:
            words = cls.load(vocab).words
        else:
            counted = _count_words(store, [s for s in _TRAINING_SPLITS if s in store.splits])
            kept = {word for word, count in counted.items() if count >= min_count}
            kept |= {word for name in (*labels, *predicates) for word in name.split()}
            ranked = sorted(kept - {*SPECIAL_WORDS, ""}, key=lambda word: (-counted[word], word))
            words = Table((*SPECIAL_WORDS, *ranked), unknown=3)
        return cls(
            words=words,
            labels=Table.of(labels),
            predicates=Table.of(predicates),
            tags=Table.of(tags),
            pieces=None if pieces is None else WordPiece.load(Path(pieces)),
            without=tuple(without),
        )

    def save(self, path: str | Path) -> None:
        """Write the codebook to a JSON file.

        Raises: WriteError: the file cannot be written.
        """
        write_sealed(Path(path), {"kind": "codebook", **self._document()})

    @property
    def digest(self) -> str:
        """Hash of all tables; weights are useless with a codebook of another one."""
        return hashlib.sha256(
            canonical_json(self._document()).encode("utf-8", "surrogatepass")
        ).hexdigest()

    def _document(self) -> dict[str, object]:
        document: dict[str, object] = {name: getattr(self, name).names for name in _TABLES}
        if self.without:  # left out where it says nothing: older versions read the file, too
            document["without"] = self.without
        return {**document, "pieces": None if self.pieces is None else self.pieces.names}

    def save_words(self, path: str | Path) -> None:
        """Write the words as a SCAN ``*_vocab.json`` (word2idx, idx2word, idx).

        Raises: WriteError: the file cannot be written.
        """
        ids = {word: number for number, word in enumerate(self.words.names)}
        words = {str(number): word for word, number in ids.items()}
        document = {"word2idx": ids, "idx2word": words, "idx": len(ids)}
        with replacing(Path(path)) as partial:
            partial.write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        """Read a codebook, or the words of a SCAN ``*_vocab.json``.

        Raises:
            MissingInput: no such file.
            InputError: the file has neither format.
            DamagedError: the bytes of a codebook have changed since it was written.
        """
        path = Path(path)
        try:
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a JSON vocabulary ({error}). {_ADVICE}") from error
        if isinstance(document, dict) and "word2idx" in document:
            scan = Table(_scan_words(path, document), unknown=3)
            return cls(scan, Table.of(()), Table.of(()), Table.of(()))
        try:
            sealed = read_sealed(path, "codebook")
            words, *names = (_strings(sealed[name]) for name in _TABLES)
            pieces = sealed["pieces"]
            without = _strings(sealed.get("without", []))
        except (KeyError, TypeError) as error:
            raise FormatError(f"{path}: the codebook has no {error}. {_ADVICE}") from error
        except DamagedError as error:
            raise DamagedError(
                f"{path}: not a Scenestore codebook, or the bytes differ from what was written. "
                f"{_ADVICE}"
            ) from error
        labels, predicates, tags = map(Table, names)
        word_pieces = None if pieces is None else WordPiece(_strings(pieces))
        return cls(Table(words, unknown=3), labels, predicates, tags, word_pieces, without)


def _count_words(store: StoreReader, splits: Sequence[str]) -> Counter[str]:
    """Count lower-cased word forms, and words of triplets, in captions; of all if no splits."""
    if not store.has("form"):
        return Counter()
    rows = [store.caption_rows(name) for name in (splits or sorted(store.splits))]
    captions = np.concatenate([np.zeros(0, np.int64), *rows])
    counted: Counter[str] = Counter()
    tokens, _, _ = flat_rows(store.offsets("token_offsets"), captions)
    for form, count in _counts(store.coded("form"), tokens).items():
        counted[form.lower()] += count
    if store.has("relation_predicate"):
        relations, _, _ = flat_rows(store.offsets("relation_offsets"), captions)
        objects, _, _ = flat_rows(store.offsets("object_offsets"), captions)
        pairs = (("relation_predicate", relations), ("object_lemma", objects))
        in_graphs: Counter[str] = Counter()
        for name, at in pairs:
            for phrase, count in _counts(store.coded(name), at).items():
                for word in phrase.lower().split():
                    in_graphs[word] += count
        counted |= in_graphs  # the larger of the two: a word that is form and lemma is counted once
    return counted


def _counts(column: CodedColumn, rows: Index | None = None) -> Counter[str]:
    codes = column.codes if rows is None else column.codes[rows]
    found = np.bincount(codes.reshape(-1), minlength=len(column.names))
    pairs = zip(column.names, found.tolist(), strict=True)
    return Counter({name: count for name, count in pairs if count and name})


def _ranked(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("lists of strings")
    return tuple(value)


def _scan_words(path: Path, document: dict[str, Any]) -> tuple[str, ...]:
    ids = document["word2idx"]
    numbers: list[Any] = list(ids.values()) if isinstance(ids, dict) else [None]
    if not all(isinstance(n, int) for n in numbers) or sorted(numbers) != list(range(len(ids))):
        raise InputError(f"{path}: word2idx does not number its words from 0.")
    words = tuple(sorted(ids, key=ids.__getitem__))
    if words[:4] != SPECIAL_WORDS:
        raise InputError(f"{path}: the first words are {words[:4]}, expected {SPECIAL_WORDS}.")
    return words
