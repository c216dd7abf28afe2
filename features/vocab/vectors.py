"""Word vectors: GloVe or word2vec text files, or the input embeddings of the packaged MiniLM."""

from __future__ import annotations

import abc
import gzip
import mmap
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.errors import InputError, MissingInput
from features.format import hash_file
from features.vocab.minilm import minilm_folder, read_tensors
from features.vocab.wordpiece import WordPiece

Float = npt.NDArray[np.float32]

_TABLE = "embeddings.word_embeddings.weight"


class WordVectors(abc.ABC):
    """A table of word vectors.

    Attributes:
        dim: width of a vector, D.   path: the file.
        identity: name and hash of the file, for content keys.
    """

    dim: int
    path: Path
    name: str

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name and hash of the file."""
        return {"name": self.name, "sha256": hash_file(self.path)}

    @abc.abstractmethod
    def word(self, word: str) -> Float | None:
        """Return the vector of a lower-cased word, (D,), or None if the word is unknown."""

    def phrase(self, text: str) -> Float:
        """Return the mean vector of the known words of a phrase, (D,); zeros if none is known."""
        found = [self.word(word) for word in re.split(r"[\s_/-]+", text.lower()) if word]
        known = [vector for vector in found if vector is not None]
        if not known:
            return np.zeros(self.dim, np.float32)
        mean: Float = np.mean(known, axis=0, dtype=np.float32)
        return mean


def load_vectors(source: str | Path | None = None) -> WordVectors:
    """Open word vectors.

    Args:
        source: a GloVe or word2vec text file, or one compressed as ``.gz``. ``minilm`` or None: the
            input embeddings of the packaged MiniLM (384 numbers, every English word).

    Raises:
        MissingDependency: the MiniLM package is not installed.
        MissingInput: no such file.
        InputError: the file has no word vectors.
    """
    return MiniLmVectors() if source in (None, "minilm") else TextVectors(Path(str(source)))


def word_matrix(source: str | Path | None, words: Iterable[str]) -> Float:
    """Return the vectors of some words, (V, D); zeros for unknown words."""
    vectors = load_vectors(source)
    names = list(words)
    out = np.zeros((len(names), vectors.dim), np.float32)
    for row, name in enumerate(names):
        found = vectors.word(name.lower())
        if found is not None:
            out[row] = found
    return out


class TextVectors(WordVectors):
    """Vectors of a text file with a word and D numbers per line.

    word2vec's first line (V D) is skipped. Opening the file finds the lines; the numbers of a word
    are parsed when it is looked up.
    """

    name = "text"

    def __init__(self, path: Path):
        self.path = path
        self._data = _bytes(path)
        self._places: dict[str, tuple[int, int]] = {}
        at, size, first = 0, len(self._data), True
        while at < size:
            end = self._data.find(b"\n", at)
            end = size if end < 0 else end
            space = self._data.find(b" ", at, end)
            header = first and len(self._data[at:end].split()) == 2
            if space > at and not header:
                word = self._data[at:space].decode("utf-8", "replace")
                self._places.setdefault(word, (space, end))
            at, first = end + 1, False
        if not self._places:
            raise InputError(f"{path}: no word vectors. Expected a word and numbers per line.")
        place = next(iter(self._places.values()))
        self.dim = len(self._data[place[0] : place[1]].split())
        self._numbers(next(iter(self._places)))

    def word(self, word: str) -> Float | None:
        """Return the vector of a word, (D,), or None if the word is unknown."""
        return self._numbers(word) if word in self._places else None

    def _numbers(self, word: str) -> Float:
        start, stop = self._places[word]
        try:
            numbers = np.array(self._data[start:stop].split(), dtype=np.float32)
        except ValueError as error:
            raise InputError(f"{self.path}: word {word!r}: not a number ({error}).") from error
        if len(numbers) != self.dim or not np.isfinite(numbers).all():
            raise InputError(f"{self.path}: word {word!r} needs {self.dim} finite numbers.")
        return numbers


def _bytes(path: Path) -> bytes | mmap.mmap:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error}).") from error
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: no word vectors; the file is empty.") from error


class MiniLmVectors(WordVectors):
    """The input embeddings of MiniLM; a word of several pieces gets their mean."""

    name = "minilm"

    def __init__(self) -> None:
        folder = minilm_folder("the word vectors 'minilm'")
        self.path = folder / "model.safetensors"
        self._pieces = WordPiece.load(folder / "tokenizer.json")
        tensors = read_tensors(self.path)
        if _TABLE not in tensors:
            raise InputError(f"{self.path}: has no float32 tensor {_TABLE!r}.")
        self._table = tensors[_TABLE]
        self.dim = self._table.shape[1]

    def word(self, word: str) -> Float | None:
        """Return the mean vector of a word's known pieces, (384,), or None if it has none."""
        pieces = [piece for piece in self._pieces.encode(word) if piece != self._pieces.unknown]
        if not pieces:
            return None
        mean: Float = np.mean(self._table[pieces], axis=0, dtype=np.float32)
        return mean
