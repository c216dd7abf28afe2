"""Vocabularies: which id a model sees for a word, a label, a predicate or a tag."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import FormatError, InputError, MissingInput
from features.format.files import read_sealed, write_errors, write_sealed
from features.records import Detections, TextGraph
from features.vocab.wordpiece import WordPiece

if TYPE_CHECKING:
    from features.batches.batch import CaptionBatch, ImageBatch
    from features.store import Store

__all__ = ["SPECIAL_WORDS", "Codebook", "Table"]

SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
_SPECIAL_NAMES = ("<pad>", "<unk>")
_TRAINING_SPLITS = ("train", "restval", "val", "dev")

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Table:
    """Names with ids; id 0 pads (and is the empty name), one id is for unknown names.

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
        """Make a table with ``<pad>`` 0 and ``<unk>`` 1 before the names."""
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
    """The tables that turn strings of the store into ids of a batch.

    Attributes:
        words: lower-cased word forms; ``<pad>`` 0, ``<start>`` 1, ``<end>`` 2, ``<unk>`` 3.
        labels: object classes; 0 pads, 1 is unknown.
        predicates: visual predicates, like labels.
        tags: XPOS tags, like labels.
        pieces: word pieces of a BERT encoder, or None.
    """

    words: Table
    labels: Table
    predicates: Table
    tags: Table
    pieces: WordPiece | None = None

    @classmethod
    def from_store(
        cls,
        store: Store,
        vocab: str | Path | None = None,
        *,
        min_count: int = 4,
        pieces: str | Path | None = None,
    ) -> Codebook:
        """Build the tables from a store.

        Words are the forms of the training and validation captions that occur at least
        ``min_count`` times, the words of their triplets that do, and all words of labels and
        predicates; the most frequent first, equal counts in alphabetical order. A store without
        a training split counts all its captions.

        Args:
            store: the opened store.
            vocab: word list to use instead: a SCAN ``*_vocab.json`` or a saved codebook.
            min_count: least occurrences of a word.
            pieces: BERT ``vocab.txt`` or ``tokenizer.json``, to fill ``CaptionBatch.pieces``.
        """
        from features.vocab.counts import count_names, count_words

        names = count_names(store)
        if vocab is not None:
            words = cls.load(vocab).words
        else:
            counted = count_words(store, [s for s in _TRAINING_SPLITS if s in store.splits])
            kept = {word for word, count in counted.items() if count >= min_count}
            kept |= {word for name in (*names.labels, *names.predicates) for word in name.split()}
            ranked = sorted(kept - {*SPECIAL_WORDS, ""}, key=lambda word: (-counted[word], word))
            words = Table((*SPECIAL_WORDS, *ranked), unknown=3)
        return cls(
            words=words,
            labels=Table.of(_ranked(names.labels)),
            predicates=Table.of(_ranked(names.predicates)),
            tags=Table.of(_ranked(names.tags)),
            pieces=None if pieces is None else WordPiece.load(Path(pieces)),
        )

    def save(self, path: str | Path) -> None:
        """Write all tables to one JSON file.

        Raises: WriteError: the file cannot be written.
        """
        names = ("words", "labels", "predicates", "tags")
        document: dict[str, object] = {name: list(getattr(self, name).names) for name in names}
        pieces = None if self.pieces is None else list(self.pieces.names)
        with write_errors(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_sealed(Path(path), {"kind": "codebook", **document, "pieces": pieces})

    def save_words(self, path: str | Path) -> None:
        """Write the words as a SCAN ``*_vocab.json`` (word2idx, idx2word, idx)."""
        ids = {word: number for number, word in enumerate(self.words.names)}
        words = {str(number): word for word, number in ids.items()}
        document = {"word2idx": ids, "idx2word": words, "idx": len(ids)}
        with write_errors(Path(path)):
            Path(path).write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        """Read a saved codebook, or a SCAN ``*_vocab.json`` (words only).

        Raises:
            MissingInput: no such file.
            InputError: neither of both formats.
            DamagedError: a saved codebook whose bytes have changed.
        """
        path = Path(path)
        try:
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a JSON vocabulary ({error}).") from error
        if isinstance(document, dict) and "word2idx" in document:
            scan = Table(_scan_words(path, document), unknown=3)
            return cls(scan, Table.of(()), Table.of(()), Table.of(()))
        try:
            sealed = read_sealed(path, "codebook")
            lists = [_strings(sealed[name]) for name in ("words", "labels", "predicates", "tags")]
            pieces = sealed["pieces"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"{path}: a codebook without {error}.") from error
        words, labels, predicates, tags = lists
        return cls(
            words=Table(words, unknown=3),
            labels=Table(labels),
            predicates=Table(predicates),
            tags=Table(tags),
            pieces=None if pieces is None else WordPiece(_strings(pieces)),
        )

    def captions(self, graphs: Sequence[TextGraph]) -> CaptionBatch:
        """Return the batch of parsed captions that stand in no store; rows are -1, -2 ..."""
        from features.batches.captions import CaptionEncoder, columns_of_graphs

        encoder = CaptionEncoder(columns_of_graphs(graphs), self)
        rows = np.arange(len(graphs))
        return encoder.batch(rows, image_rows=-1 - rows, shown_rows=-1 - rows)

    def images(
        self,
        images: Sequence[tuple[Detections, npt.NDArray[Any], npt.NDArray[Any]]],
        *,
        max_objects: int | None = None,
        max_relations: int | None = None,
    ) -> ImageBatch:
        """Return the batch of detected images that stand in no store; rows are -1, -2 ...

        Args:
            images: (detections with relations, (n, D) region features, (m, D) union features).
            max_objects: K; the most objects among the images when not given.
            max_relations: R, likewise.
        """
        from features.batches.images import images_of_records

        return images_of_records(images, self, max_objects, max_relations)


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
