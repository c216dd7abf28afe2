"""Tokenisation: NLTK's tokens, sentence by sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer

from pipeline.language.tokenizer import MAX_TOKENS, clean, tokenize

NLTK = NLTKWordTokenizer()
CAPTIONS = [
    "A man's t-shirt isn't red, it's blue-green.",
    'A sign says "no parking" (really) -- 24/7!',
    "Two dogs, one cat; and a $5 bird & more...",
    "They cannot sit: gonna run, wanna eat?",
    "A girl in a 1950's dress, at 10:30 p.m.",
    "the 'best' cup [ever] {here}",
    "women 's shoes cost 3.50",
    "a well-known rock-n-roll band",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_one_sentence_equals_nltk(caption: str) -> None:
    assert tokenize(caption).words == NLTK.tokenize(caption)


@given(st.lists(st.sampled_from([*"ab,.;:!?'\"()[]-&$", "dog", "can't", "t-shirt", " ", " "])))
def test_chunks_equal_nltk_on_any_single_sentence(pieces: list[str]) -> None:
    caption = "".join(pieces)
    found = tokenize(caption)
    # quotes and clitics across spaces are NLTK's only rules beyond a chunk
    if len(found.starts) == 1 and not set(caption) & set("'\".()[]"):
        assert found.words == NLTK.tokenize(caption)


@pytest.mark.parametrize(
    ("caption", "starts"),
    [
        ("A dog runs. A cat sits.", [0, 4]),
        ("a dog runs. a cat sits", [0, 4]),
        ("Mr. Smith rides a bike.", [0]),
        ("J. P. Jones sings at 5 p.m. today.", [0]),
        ("Look! Is it a kite? Yes.", [0, 2, 7]),
        ("wait... what", [0]),
        ("", []),
    ],
)
def test_sentences(caption: str, starts: list[int]) -> None:
    assert tokenize(caption).starts == starts


def test_abbreviation_keeps_its_period_inside_a_sentence() -> None:
    assert tokenize("Mr. Smith sits.").words == ["Mr.", "Smith", "sits", "."]


@pytest.mark.parametrize("caption", ["", "   ", "\x00", "\u200b \ufeff", "\t\n"])
def test_blank_captions_are_empty(caption: str) -> None:
    assert tokenize(caption).problem == "empty"
    assert tokenize(caption).words == []


def test_long_captions_are_cut() -> None:
    found = tokenize("dog " * 2000)
    assert (found.problem, len(found.words)) == ("too long", MAX_TOKENS)
    assert tokenize("dog " * MAX_TOKENS).problem == ""


def test_clean_replaces_control_characters() -> None:
    assert clean("a\x00b\ud800c\u200bd") == "a b\ufffdc d"


@given(st.text(max_size=80))
def test_words_hold_no_space_and_starts_are_positions(caption: str) -> None:
    found = tokenize(caption)
    assert all(word and not any(mark.isspace() for mark in word) for word in found.words)
    assert found.starts == sorted(set(found.starts))
    assert all(0 <= start < len(found.words) for start in found.starts)
    assert bool(found.words) == (found.problem != "empty")
    "".join(found.words).encode()  # no unpaired surrogate is left
