"""TF-IDF: against a computation by hand over a store of four captions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import models
from features.errors import TrainingError
from features.reading.columns import CodedColumn
from features.vocab.codebook import Codebook, Table

WORDS = Table(
    ("<pad>", "<start>", "<end>", "<unk>", "dog", "dogs", "on", "next", "to", "grass"), unknown=3
)
BOOK = Codebook(
    words=WORDS,
    labels=Table.of(["dog", "tall grass", "zebra"]),
    predicates=Table.of(["next to", "on"]),
    tags=Table.of([]),
)
TEXTS = ["dogs on grass", "dog next to dogs", "dogs", "zebra on grass"]


class FakeStore:
    """Four training captions; only what ``prepare`` asks for."""

    splits = {"train": [0, 1, 2, 3], "test": [4]}  # noqa: RUF012

    def __init__(self, make_captions):
        self.make = make_captions

    def coded(self, name):
        import numpy as np

        lemma = {"Dogs": "dog", "dogs": "dog"}
        forms = ["Dogs", "dogs", "dog", "on"]
        values = forms if name == "form" else [lemma.get(form, form) for form in forms]
        names = sorted(set(values))
        return CodedColumn(names, np.asarray([names.index(value) for value in values]))

    def caption_batches(self, split, batch_size, codebook):
        assert split == "train"
        yield captions_of(self.make, TEXTS)


def captions_of(make, texts):
    rows = [[1, *WORDS.ids(text.split()).tolist(), 2] for text in texts]
    width = max(map(len, rows))
    words = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return dataclasses.replace(make(len(texts)), words=words, word_mask=words > 0)


def images_of(make, labels, predicates):
    return dataclasses.replace(
        make(1), labels=torch.tensor([labels]), predicates=torch.tensor([predicates])
    )


@pytest.fixture
def prepared(make_captions):
    model = models.create("tfidf", vocab_size=len(WORDS), n_labels=5, n_predicates=4)
    model.prepare(FakeStore(make_captions), BOOK)
    return model.eval()


def test_scores_equal_a_computation_by_hand(prepared, make_images, make_captions):
    # dog, dog, tall (unknown) grass; on. Documents with dog: 3 of 4, on: 2, grass: 2.
    image = images_of(make_images, [2, 2, 3, 0], [3, 0])
    captions = captions_of(make_captions, ["dogs on dog", "next to"])
    score = prepared.score(prepared.encode_images(image), prepared.encode_captions(captions))
    idf = {word: math.log(5 / (1 + n)) + 1 for word, n in (("dog", 3), ("on", 2), ("grass", 2))}
    twice = 1 + math.log(2)
    photo = {"dog": twice * idf["dog"], "grass": idf["grass"], "on": idf["on"]}
    text = {"dog": twice * idf["dog"], "on": idf["on"]}
    dot = sum(photo[word] * text[word] for word in text)
    expected = dot / math.hypot(*photo.values()) / math.hypot(*text.values())
    assert score[0, 0].item() == pytest.approx(expected, abs=1e-6)
    assert score[0, 1].item() == 0


def test_options_change_what_is_counted(make_images, make_captions):
    def score(**options):
        model = models.create("tfidf", vocab_size=len(WORDS), n_labels=5, n_predicates=4, **options)
        model.prepare(FakeStore(make_captions), BOOK)
        image = images_of(make_images, [2, 0], [2, 0])
        captions = captions_of(make_captions, ["next to", "dogs", "dog"])
        return model.score(model.encode_images(image), model.encode_captions(captions))[0]

    assert (score() > 0).tolist() == [True, True, True]
    assert (score(predicates=False) > 0).tolist() == [False, True, True]
    assert (score(lemmas=False) > 0).tolist() == [True, False, True]


def test_confidence_and_attributes_equal_a_computation_by_hand(make_images, make_captions):
    options = {"confidence": True, "attributes": True}
    model = models.create("tfidf", vocab_size=len(WORDS), n_labels=5, n_predicates=4, **options)
    model.prepare(FakeStore(make_captions), BOOK)
    image = dataclasses.replace(
        images_of(make_images, [2, 2, 3, 0], [3, 0]),  # dog, dog, tall grass; on
        scores=torch.tensor([[0.5, 0.4, 0.2, 0.0]]),
        relation_scores=torch.tensor([[0.3, 0.0]]),
        attributes=torch.tensor([[int(WORDS.ids(["next"])[0]), 0]]),
        attribute_objects=torch.tensor([[1, 0]]),
        attribute_scores=torch.tensor([[0.5, 0.0]]),
    )
    texts = captions_of(make_captions, ["dog", "next", "on", "grass"])
    scores = model.score(model.encode_images(image), model.encode_captions(texts))[0]
    # "next" describes the second dog: 0.4 * 0.5
    sure = {"dog": 1 - 0.5 * 0.6, "next": 0.4 * 0.5, "on": 0.3, "grass": 0.2}
    counts = {"dog": 3, "next": 1, "on": 2, "grass": 2}
    weight = {word: p * (math.log(5 / (1 + counts[word])) + 1) for word, p in sure.items()}
    expected = [weight[word] / math.hypot(*weight.values()) for word in sure]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_must_be_prepared_and_survives_a_checkpoint(prepared, make_captions):
    fresh = models.create("tfidf", vocab_size=len(WORDS), n_labels=5, n_predicates=4)
    captions = captions_of(make_captions, TEXTS)
    with pytest.raises(TrainingError, match="Call prepare"):
        fresh.encode_captions(captions)
    fresh.load_state_dict(prepared.state_dict())
    expected = prepared.encode_captions(captions)
    assert torch.equal(fresh.encode_captions(captions).bags, expected.bags)
    own = models.reference(fresh, expected, expected).diagonal()
    torch.testing.assert_close(own, torch.ones(4))
    assert not fresh.learns
