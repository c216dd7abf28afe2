"""The closed word classes of the caption rules, from ``data/words.json``."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

__all__ = ["names", "phrases", "words"]


@cache
def _tables() -> dict[str, object]:
    text = (
        resources.files("pipeline.language").joinpath("data/words.json").read_text(encoding="utf-8")
    )
    tables: dict[str, object] = json.loads(text)
    return tables


@cache
def words(name: str) -> frozenset[str]:
    """Return the words of one class.

    >>> "couple" in words("quantifiers_a")
    True
    """
    return frozenset(str(_tables()[name]).split())


@cache
def phrases(name: str) -> frozenset[str]:
    """Return the phrases of one class, words separated by a space."""
    listed = _tables()[name]
    assert isinstance(listed, list)
    return frozenset(map(str, listed))


@cache
def names(name: str) -> dict[str, str]:
    """Return one table, word -> name."""
    listed = _tables()[name]
    assert isinstance(listed, dict)
    return {str(word): str(value) for word, value in listed.items()}
