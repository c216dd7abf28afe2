"""Edits of a caption by token spans; spaces and punctuation around them stay as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.negatives.lexicon import article, words

Span = tuple[int, int]
_QUOTES = {"``": '"', "''": '"'}
_ARTICLE = re.compile(r"\b(an?)\b(?=\s+(\S+))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the tokens from ``start`` to before ``stop`` by a text, which is not empty."""

    start: int
    stop: int
    text: str


def align(caption: str, tokens: Sequence[str]) -> list[Span] | None:
    """Return the characters of each token, or None if the tokens are not those of the caption.

    >>> align("A dog , barks.", ["A", "dog", ",", "barks", "."])
    [(0, 1), (2, 5), (6, 7), (8, 13), (13, 14)]
    """
    spans, at = [], 0
    for token in tokens:
        while at < len(caption) and caption[at].isspace():
            at += 1
        form = token if caption.startswith(token, at) else _QUOTES.get(token, token)
        if not caption.startswith(form, at):
            return None
        spans.append((at, at + len(form)))
        at += len(form)
    return spans if not caption[at:].strip() else None


def apply(caption: str, tokens: Sequence[str], edits: Iterable[Edit]) -> str | None:
    """Return the caption after some edits that do not overlap.

    The first word keeps the case of the caption's first letter, and an article before a new word
    gets the form that the word needs.

    >>> tokens = "A dog eats an apple .".split()
    >>> apply(" ".join(tokens), tokens, [Edit(0, 2, "an owl"), Edit(4, 5, "pear")])
    'An owl eats a pear .'
    """
    spans = align(caption, tokens)
    if spans is None:
        return None
    parts, at = [], 0
    marked: list[Span] = []  # new text, in characters of the result
    length = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        before = caption[at : spans[edit.start][0]]
        at = spans[edit.stop - 1][1]
        text = edit.text
        if edit.start == 0:
            text = (text[0].upper() if tokens[0][0].isupper() else text[0]) + text[1:]
        parts += [before, text]
        length += len(before)
        marked.append((length, length + len(text)))
        length += len(text)
    return _articles("".join([*parts, caption[at:]]), marked)


def _articles(text: str, marked: Sequence[Span]) -> str:
    """Correct the articles inside new text, and those directly before it."""

    def correct(match: re.Match[str]) -> str:
        following = match.start(2)
        near = any(start <= match.start() < end or start == following for start, end in marked)
        given = match[1]
        if not near:
            return given
        form = article(match[2])
        return form.capitalize() if given[0].isupper() else form

    return _ARTICLE.sub(correct, text)


def lowered(word: str) -> str:
    """Return the first word of a sentence as it is written inside one."""
    if word.lower() in words("proper"):
        return word
    return word if len(word) > 1 and word.isupper() else word[:1].lower() + word[1:]
