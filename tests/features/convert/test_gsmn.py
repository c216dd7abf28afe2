"""GSMN's caption files: sentences numbered from 1 each, heads that form no tree, vocabularies."""

import json
from pathlib import Path

import pytest

from features.convert.readers.gsmn_text import read_graphs
from features.errors import InputError

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a", "dog", ".", "cat", "runs", "!"]


def read(folder: Path, caption: str, pairs: list[list[int]]) -> tuple[int, ...]:
    """Write one caption in GSMN's format; return the heads that are read, from 0."""
    ids = {word: number for number, word in enumerate(WORDS)}
    (folder / "g_vocab.json").write_text(json.dumps({"word2idx": ids}))
    codes = [1, *(ids.get(word, 3) for word in caption.split()), 2]
    (folder / "train_precaps_stan.txt").write_text(",".join(map(str, codes)) + "\n")
    (folder / "train_caps.json").write_text(json.dumps([pairs]))
    graphs = read_graphs(folder, "train", [caption])
    assert graphs is not None
    return graphs[0].heads


DOG = [[0, 2], [2, 1], [2, 3]]  # a dog .
CAT = [[0, 3], [2, 1], [3, 2], [3, 4]]  # a cat runs .


def test_one_sentence(tmp_path):
    assert read(tmp_path, "a cat runs .", CAT) == (1, 2, -1, 2)
    assert read(tmp_path, "a cat runs .", CAT[:3]) == (1, 2, -1, -1)  # without the full stop
    # two roots, words numbered through the caption
    pairs = [[0, 2], [2, 1], [2, 3], [0, 6], [5, 4], [6, 5], [6, 7]]
    assert read(tmp_path, "a dog . a cat runs .", pairs) == (1, -1, 1, 4, 5, -1, 5)


def test_sentences_numbered_from_one_each(tmp_path):
    assert read(tmp_path, "a dog . a cat runs .", DOG + CAT) == (1, -1, 1, 4, 5, -1, 5)
    assert read(tmp_path, "a cat runs ! a dog .", CAT + DOG) == (1, 2, -1, 2, 5, -1, 5)
    heads = read(tmp_path, "a dog . a dog . a cat runs .", DOG + DOG + CAT)
    assert heads == (1, -1, 1, 4, -1, 4, 7, 8, -1, 8)
    # the end of the first is unmarked, but together they have the caption's words
    assert read(tmp_path, "a dog x a cat runs .", DOG + CAT) == (1, -1, 1, 4, 5, -1, 5)
    # one word more than parsed, but the first ends at a full stop
    assert read(tmp_path, "a dog . a cat runs . x", DOG + CAT) == (1, -1, 1, 4, 5, -1, 5, -1)


@pytest.mark.parametrize(
    ("caption", "pairs"),
    [
        ("a dog . a cat runs .", DOG[:2] + CAT[:3]),  # without punctuation: 2 words or 3?
        ("a dog x a cat runs . x", DOG + CAT),
        ("a dog . a cat runs .", [DOG[0], DOG[2], *CAT]),
        ("a dog . a cat runs", DOG + CAT),
        ("a dog . a cat runs .", [[0, 2], [4, 1], [2, 3], *CAT]),  # a head in the next sentence
        ("a dog . a cat runs .", [DOG[1], DOG[0], DOG[2], *CAT]),
    ],
)
def test_sentences_that_cannot_be_separated(tmp_path, caption, pairs):
    with pytest.raises(InputError, match=r"line 1: .* 2 sentences.*cannot be determined"):
        read(tmp_path, caption, pairs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 2], [2, 1], [3, 1], [2, 3]], "word 1 has two heads"),
        ([[0, 2], [1, 1], [2, 3]], "word 1 form a cycle"),
        ([[0, 2], [3, 1], [1, 3]], "word 1 form a cycle"),
    ],
)
def test_heads_that_form_no_tree(tmp_path, pairs, message):
    with pytest.raises(InputError, match=f"line 1: .*{message}"):
        read(tmp_path, "a dog .", pairs)


def test_two_vocabularies(tmp_path):
    folder = tmp_path / "f30k_precomp"
    folder.mkdir()
    read(folder, "a dog .", DOG)
    other = {word: number for number, word in enumerate([*WORDS[:4], "dog", "a", *WORDS[6:]])}
    (folder / "coco_precomp_vocab.json").write_text(json.dumps({"word2idx": other}))
    with pytest.raises(InputError, match=r"coco_precomp_vocab\.json and g_vocab\.json"):
        read_graphs(folder, "train", ["a dog ."])
    (folder / "g_vocab.json").rename(folder / "f30k_precomp_vocab.json")
    assert read_graphs(folder, "train", ["a dog ."])[0].tokens == ("a", "dog", ".")
