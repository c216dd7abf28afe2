"""Split words into the word pieces of a BERT vocabulary, longest match first."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from features.errors import InputError, MissingInput

_LONGEST_WORD = 100


class WordPiece:
    """A vocabulary of word pieces, and the rule that splits a word into them.

    >>> pieces = WordPiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "skate", "##board", "##s", "a"))
    >>> pieces.encode("Skateboards"), pieces.encode("dog")
    ([4, 5, 6], [1])

    Args:
        names: the pieces; a piece's position is its id.

    Raises: InputError: a special piece is missing.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self._ids = {name: number for number, name in enumerate(names)}
        missing = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if name not in self._ids]
        if missing:
            raise InputError(f"the vocabulary lacks {missing[0]}. Use that of an uncased BERT.")
        self.pad, self.unknown = self._ids["[PAD]"], self._ids["[UNK]"]
        self.cls, self.sep = self._ids["[CLS]"], self._ids["[SEP]"]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.names)

    @classmethod
    def load(cls, path: Path) -> WordPiece:
        """Read a ``vocab.txt`` (one piece per line) or a ``tokenizer.json``.

        Raises:
            MissingInput: no such file.
            InputError: the file has no vocabulary.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise InputError(f"{path}: not UTF-8 text ({error}).") from error
        if path.suffix != ".json":
            return cls(tuple(text.removesuffix("\n").split("\n")))
        try:
            ids = json.loads(text)["model"]["vocab"]
            return cls(tuple(sorted(ids, key=ids.__getitem__)))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a tokenizer with a WordPiece vocabulary.") from error

    def encode(self, word: str) -> list[int]:
        """Return the ids of the pieces of a word; at least one."""
        return [piece for part in _parts(word) for piece in self._match(part)] or [self.unknown]

    def _match(self, part: str) -> list[int]:
        if len(part) > _LONGEST_WORD:
            return [self.unknown]
        found: list[int] = []
        start = 0
        while start < len(part):
            prefix = "##" if start else ""
            for stop in range(len(part), start, -1):
                number = self._ids.get(prefix + part[start:stop])
                if number is not None:
                    found.append(number)
                    start = stop
                    break
            else:
                return [self.unknown]
        return found


def _parts(word: str) -> Iterator[str]:
    """Yield runs of letters, lower-cased and without accents, and each punctuation mark."""
    plain = unicodedata.normalize("NFD", word.lower())
    run = ""
    for char in plain:
        kind = unicodedata.category(char)
        if kind == "Mn" or kind.startswith("C"):
            continue
        alone = kind.startswith("P") or (char.isascii() and not char.isalnum()) or char.isspace()
        if not alone and not 0x4E00 <= ord(char) <= 0x9FFF:
            run += char
            continue
        if run:
            yield run
        run = ""
        if not char.isspace():
            yield char
    if run:
        yield run
