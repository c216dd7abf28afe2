"""Queries for scene graphs, such as ``dog - catch - frisbee`` or ``red shirt``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.finding.words import lemmas, synonyms

Mask = npt.NDArray[np.bool_]
ANY = "*"
_DASH = re.compile(r"\s+(?:-{1,2}>?|\u2192|\u2013|\u2014)\s+")


@dataclass(frozen=True)
class Term:
    """One part of a query: words, with alternatives; no alternative stands for anything.

    Attributes:
        alternatives: the words of each, in lower case.
        synonyms: whether synonyms of a noun match too.
    """

    alternatives: tuple[tuple[str, ...], ...] = ()
    synonyms: bool = True

    @property
    def anything(self) -> bool:
        """True for ``*``."""
        return not self.alternatives

    def names(self, names: Names, words: Sequence[str]) -> Mask:
        """Return which names are these words, by lemma; a whole name may be a synonym."""
        alone = self.synonyms and len(words) == 1
        same = [names.tokens_like(word, with_synonyms=alone) for word in words]
        found = [
            len(tokens) == len(words) and all(map(frozenset.__contains__, same, tokens))
            for tokens in names.tokens
        ]
        return np.asarray(found, bool)

    def with_word(self, names: Names, word: str) -> Mask:
        """Return which names have a word as one of theirs: *light blue* is *blue*."""
        like = names.tokens_like(word)
        return np.asarray([not like.isdisjoint(tokens) for tokens in names.tokens], bool)

    def predicates(self, names: Names) -> Mask:
        """Return which predicates begin with one of the alternatives: ``sit`` is ``sit on``."""
        found = np.full(len(names.tokens), self.anything)
        for words in self.alternatives:
            same = [names.tokens_like(word) for word in words]
            found |= [
                len(tokens) >= len(words) and all(map(frozenset.__contains__, same, tokens))
                for tokens in names.tokens
            ]
        return found


class Names:
    """The distinct names of a column, as numbers of words, so that words are compared once.

    Args:
        names: the names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        self.tokens = [
            tuple(
                numbers.setdefault(word, len(numbers))
                for word in name.lower().replace("_", " ").split()
            )
            for name in names
        ]
        self._of_lemma: dict[str, set[int]] = {}
        self._of_group: dict[str, set[int]] = {}
        for word, number in numbers.items():
            for lemma in lemmas(word):
                self._of_lemma.setdefault(lemma, set()).add(number)
            for group in synonyms(word):
                self._of_group.setdefault(group, set()).add(number)

    def tokens_like(self, word: str, *, with_synonyms: bool = False) -> frozenset[int]:
        """Return the numbers of the words that are the same word, or synonyms."""
        found: set[int] = set()
        for lemma in lemmas(word):
            found |= self._of_lemma.get(lemma, set())
        for group in synonyms(word) if with_synonyms else ():
            found |= self._of_group.get(group, set())
        return frozenset(found)


@dataclass(frozen=True)
class Query:
    """What to find: an object, or a subject with a predicate and an object.

    Attributes:
        text: the query as the user wrote it.
        subject, object: terms of objects; words before the last one can be attributes.
        predicate: None for a query of one part.
    """

    text: str
    subject: Term
    predicate: Term | None = None
    object: Term = Term()


def parse_query(text: str, *, synonyms: bool = True) -> Query:
    """Read a query.

    Args:
        text: one, two or three parts with `` - `` between them; ``*`` is anything, ``|`` separates
            alternatives: ``man|woman - ride - *``.
        synonyms: whether synonyms match.

    Raises: UsageError: more than three parts, an empty part, or nothing but ``*``.

    >>> parse_query("red shirt").subject.alternatives
    (('red', 'shirt'),)
    """
    parts = [part.strip() for part in _DASH.split(f" {text.strip()} ".replace("\\t", " ").strip())]
    if len(parts) > 3 or not all(parts):
        raise UsageError(
            f"query {text!r}: write one object (red shirt), or a triplet with spaces around the "
            "dashes (dog - catch - frisbee); * is anything."
        )
    terms = [_term(part, text, synonyms) for part in parts]
    if all(term.anything for term in terms):
        raise UsageError(f"query {text!r} finds everything: name an object or a predicate.")
    if len(terms) == 1:
        return Query(text, terms[0])
    return Query(text, terms[0], terms[1], terms[2] if len(terms) == 3 else Term())


def _term(part: str, text: str, synonyms: bool) -> Term:
    if part == ANY:
        return Term()
    alternatives = tuple(tuple(words.lower().split()) for words in part.split("|"))
    if not all(alternatives) or any(
        ANY in word or not any(map(str.isalnum, word)) for words in alternatives for word in words
    ):
        raise UsageError(f"query {text!r}: {part!r} is not words; * can only stand alone.")
    return Term(alternatives, synonyms)
