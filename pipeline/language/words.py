"""The tables of the language rules, from the folder ``data``."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


def read_data(file: str) -> str:
    """Return the text of a file in the folder ``data``."""
    return resources.files("pipeline.language").joinpath("data", file).read_text(encoding="utf-8")


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(read_data("words.json"))
    return tables


@cache
def word_class(name: str) -> frozenset[str]:
    """Return the words of one class.

    >>> "couple" in word_class("quantifiers_a")
    True
    """
    return frozenset(_tables()[name].split())


def phrases(name: str) -> frozenset[str]:
    """Return the phrases of one class, words separated by a space."""
    return frozenset(_tables()[name])


def names(name: str) -> dict[str, str]:
    """Return one table, word -> name."""
    return dict(_tables()[name])
