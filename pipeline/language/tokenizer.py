"""Tokenisation of captions by NLTK's Penn Treebank rules, without downloads; hyphens are kept.

The vocabularies of SCAN and its successors were made with ``nltk.word_tokenize``. The same tokens
are parsed here, so each word of a caption has exactly one row in the token table. Except for the
last period of a sentence, NLTK's rules apply to one white-space separated chunk at a time, so the
tokens of a chunk are cached.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache

from pipeline.language.words import word_class

MAX_TOKENS = 512  # the longest of 150,070 Flickr30k captions has 91 tokens
_CACHE_LIMIT = 200_000
_MAX_WORD = 256  # longer chunks are not words, and NLTK's regexes are slow on them

_ABBREVIATIONS = word_class("abbreviations")
_SENTENCE_END = re.compile(r"[.!?]+[\])}>\"'»”’]*$")
_INITIALS = re.compile(r"^[\"'`(“‘]*(?:[A-Za-z]\.)+$")
# The only words of letters that NLTK splits (its contraction lists).
_CONTRACTIONS = frozenset(["cannot", "gimme", "gonna", "gotta", "lemme", "wanna"])
_ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u200b\u2060-\u2064]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one caption.

    Attributes:
        words: the tokens as written.
        starts: position of the first token of each sentence; empty without tokens.
        problem: "", ``empty``, or ``too long`` if tokens beyond ``MAX_TOKENS`` were dropped.
    """

    words: list[str]
    starts: list[int]
    problem: str = ""


def clean(caption: str) -> str:
    r"""Replace control characters, unpaired surrogates and zero-width characters of a caption.

    >>> clean("a dog\x00 runs")
    'a dog  runs'
    """
    if caption.isascii() and caption.isprintable():
        return caption
    return _ODD.sub(lambda match: "\ufffd" if "\ud800" <= match[0] <= "\udfff" else " ", caption)


@cache
def _nltk() -> object:
    from nltk.tokenize import NLTKWordTokenizer  # loads NLTK

    return NLTKWordTokenizer()


@lru_cache(_CACHE_LIMIT)
def _split_chunk(chunk: str) -> tuple[str, ...]:
    """Tokenise one chunk as a sentence of its own."""
    if len(chunk) > _MAX_WORD:
        return (chunk[:_MAX_WORD],)
    if _plain(chunk):
        return (chunk,)
    if chunk[-1] in ",." and _plain(chunk[:-1]):
        return chunk[:-1], chunk[-1]
    return tuple(_nltk().tokenize(chunk))  # type: ignore[attr-defined]


def _plain(chunk: str) -> bool:
    """Return whether NLTK keeps a chunk whole: letters with single hyphens between them."""
    return (
        chunk.replace("-", "").isalpha()
        and "--" not in chunk
        and chunk.lower() not in _CONTRACTIONS
    )


def _ends_sentence(chunk: str, after: str) -> bool:
    """Return whether a chunk ends a sentence.

    Args:
        chunk: any chunk but the last.
        after: the next chunk; a sentence must begin with a letter, digit, quote or bracket.
    """
    if not _SENTENCE_END.search(chunk) or chunk.lower() in _ABBREVIATIONS:
        return False
    if _INITIALS.match(chunk) or chunk.endswith("..."):
        return False
    return unicodedata.category(after[0])[0] in "LN" or after[0] in "\"'`“‘(["


def tokenize(caption: str) -> Tokens:
    """Split a caption into tokens and sentences.

    >>> tokenize("A man's t-shirt is red. He can't see it.").words
    ['A', 'man', "'s", 't-shirt', 'is', 'red', '.', 'He', 'ca', "n't", 'see', 'it', '.']
    """
    chunks = clean(caption).split()
    words: list[str] = []
    starts: list[int] = []
    fresh = True
    last = len(chunks) - 1
    for at, chunk in enumerate(chunks):
        if fresh:
            starts.append(len(words))
            fresh = False
        pieces = _split_chunk(chunk)
        if at != last and (chunk[-1] in ".!?" or not chunk[-1].isalnum()):
            if _ends_sentence(chunk, chunks[at + 1]):
                fresh = True
            elif chunk[-1] == "." and len(pieces) > 1 and pieces[-1] == ".":
                pieces = (*pieces[:-2], pieces[-2] + ".")  # the period of an abbreviation
        words += pieces
        if len(words) > MAX_TOKENS:
            del words[MAX_TOKENS:]
            return Tokens(words, [start for start in starts if start < MAX_TOKENS], "too long")
    return Tokens(words, starts, "" if words else "empty")


def lowered(words: list[str]) -> list[str]:
    """Return the words of an all-capitals caption in lower case, which taggers need.

    >>> lowered(["WHITE", "CUP"]), lowered(["A", "cup"])
    (['white', 'cup'], ['A', 'cup'])
    """
    if all(word.isupper() or not word.isalpha() for word in words):
        return [word.lower() for word in words]
    return words
