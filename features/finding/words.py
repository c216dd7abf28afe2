"""Compare words by lemma and by synonym, without a parser.

Two forms are the same word if they can have the same lemma: *rides*, *riding* and *rode* are
*ride*. Possible lemmas come from a table of irregular forms and from English spelling.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from importlib import resources

_VOWELS = frozenset("aeiou")


def _data(name: str) -> str:
    return resources.files("features.finding").joinpath("data", name).read_text("utf-8")


@cache
def _irregular() -> dict[str, frozenset[str]]:
    """Return irregular form -> lemmas."""
    table: dict[str, list[str]] = json.loads(_data("irregular.json"))
    found: dict[str, set[str]] = {}
    for lemma, forms in table.items():
        for form in forms:
            found.setdefault(form, set()).add(lemma)
    return {form: frozenset(lemmas) for form, lemmas in found.items()}


@cache
def synonym_groups() -> dict[str, frozenset[str]]:
    """Return noun -> its groups in the packaged list of caption synonyms, each a line of it.

    The list has common nouns of photo captions that name the same thing in most of them, such as
    bike and bicycle.
    """
    groups: dict[str, set[str]] = {}
    for line in _data("synonyms.txt").splitlines():
        if line and not line.startswith("#"):
            for word in line.split():
                groups.setdefault(word, set()).add(line)
    return {word: frozenset(lines) for word, lines in groups.items()}


@lru_cache(maxsize=100_000)
def lemmas(word: str) -> frozenset[str]:
    """Return the lemmas that a word form may have, itself included.

    >>> sorted(lemmas("riding")), sorted(lemmas("men")), sorted(lemmas("boxes"))
    (['rid', 'ride', 'riding'], ['man', 'men'], ['box', 'boxe', 'boxes'])
    """
    found = {word, *_irregular().get(word, ())}
    for ending in ("ing", "ed", "es", "s"):
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2 or not _VOWELS & set(stem.replace("y", "i")):
            continue
        if ending == "s" and stem[-1] in "su":
            continue  # grass, bus
        found.add(stem)
        if ending != "s":
            if stem[-1] == "i":
                found.add(f"{stem[:-1]}y")  # carried, babies
            elif ending != "es":
                found.add(f"{stem}e")  # riding
            if stem[-1] == stem[-2] and stem[-1] not in "aeiou":
                found.add(stem[:-1])  # sitting
    return frozenset(found)


@lru_cache(maxsize=100_000)
def synonyms(word: str) -> frozenset[str]:
    """Return the synonym groups of a word form, by any of its lemmas."""
    groups = synonym_groups()
    return frozenset().union(*(groups.get(lemma, frozenset()) for lemma in lemmas(word)))


def same_word(one: str, other: str, *, with_synonyms: bool = False) -> bool:
    """Return whether two word forms are one word, or synonyms.

    >>> same_word("men", "man"), same_word("bikes", "bicycle"), same_word("rid", "ridge")
    (True, False, False)
    >>> same_word("bikes", "bicycle", with_synonyms=True)
    True
    """
    if not lemmas(one).isdisjoint(lemmas(other)):
        return True
    return with_synonyms and not synonyms(one).isdisjoint(synonyms(other))
