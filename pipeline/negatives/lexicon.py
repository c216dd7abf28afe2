"""The words that negatives are made of: classes of nouns, opposites, forms of verbs.

The file ``data/lexicon.json`` states for every word that can be put into a caption which other
words mean that it could be true; such a word in any caption of the image forbids the change.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

_VOWEL_SOUND = re.compile(r"(?!uni|use|usu|eu|one\b|once\b|ukulele)[aeiou]|hour|honest|heir")
_FORMS = ("VBZ", "VBG", "VBD", "VBN")


@dataclass(frozen=True, slots=True)
class NounClass:
    """Nouns that replace one another.

    Attributes:
        sources: nouns that can be replaced.   targets: nouns that replace them.
        words: target -> words that mean it may be in the image.
    """

    sources: frozenset[str]
    targets: tuple[str, ...]
    words: dict[str, frozenset[str]]


@cache
def table() -> dict[str, Any]:
    """Return the whole file."""
    text = resources.files("pipeline.negatives").joinpath("data", "lexicon.json").read_text("utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


@cache
def words(name: str) -> frozenset[str]:
    """Return a list of words of the file as a set."""
    value = table()[name]
    return frozenset(value.split() if isinstance(value, str) else value)


@cache
def noun_classes() -> dict[str, NounClass]:
    """Return the classes of nouns by name."""
    found = {}
    for name, clusters in table()["nouns"].items():
        targets = tuple(table()["targets"][name].split())
        sets = [frozenset(cluster.split()) for cluster in clusters]
        found[name] = NounClass(
            frozenset(table()["sources"][name].split()),
            targets,
            {word: frozenset(w for some in sets if word in some for w in some) for word in targets},
        )
    return found


@cache
def confusable(verb: str) -> frozenset[str]:
    """Return the words that mean that a verb may be true, the verb included."""
    lines = [line.split() for line in table()["confusable"]]
    return frozenset({verb}.union(*[line for line in lines if line[0] == verb]))


def plural(noun: str) -> str:
    """Return the plural of a noun.

    >>> plural("dog"), plural("bench"), plural("man"), plural("pony")
    ('dogs', 'benches', 'men', 'ponies')
    """
    irregular: str | None = table()["plurals"].get(noun)
    return irregular or _with_s(noun)


def third_person(verb: str) -> str:
    """Return the form of a verb after he, she or it.

    >>> third_person("run"), third_person("watch"), third_person("carry"), third_person("have")
    ('runs', 'watches', 'carries', 'has')
    """
    return {"have": "has", "be": "is", "do": "does", "go": "goes"}.get(verb) or _with_s(verb)


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def inflected(verb: str, tag: str) -> str:
    """Return the form of one of the file's verbs for a Penn tag.

    >>> inflected("sit", "VBG"), inflected("sit", "VBP"), inflected("throw", "VBN")
    ('sitting', 'sit', 'thrown')
    """
    forms: str = table()["verbs"][verb]
    return forms.split()[_FORMS.index(tag)] if tag in _FORMS else verb


def article(following: str) -> str:
    """Return the indefinite article before a word.

    >>> article("orange"), article("uniform"), article("hour"), article("red")
    ('an', 'a', 'an', 'a')
    """
    return "an" if _VOWEL_SOUND.match(following.lower()) else "a"
