"""Attributes of objects and their probabilities: in a store, in batches, in a file of photos."""

import dataclasses

import numpy as np
import pytest

from features.batches.image_encoder import ImageEncoder, image_batch
from features.format import Photo, build_store, read_photos, write_photos
from features.records import Caption, Detections, ImageEntry
from features.store import open_store
from features.vocab import Codebook

BOXES = np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32)


def found_of(attributes, scores):
    return Detections(
        BOXES[: len(attributes)],
        ("dog", "cat")[: len(attributes)],
        np.array([0.9, 0.5], np.float32)[: len(attributes)],
        (10, 10),
        attributes=attributes,
        attribute_scores=scores,
        relations=(),
        relation_scores=np.zeros(0, np.float32),
        shown=0.4,
    )


FOUND = [
    found_of((("red", "small"), ("blue",)), ((0.75, 0.5), (0.25,))),
    found_of(((),), ((),)),
    found_of(((), ("red",)), ((), (1.0,))),
]


def built(folder, found):
    entries = [
        ImageEntry(f"{at}.jpg", f"{at}.jpg", "train", (Caption(f"{at}#0", "a red dog"),))
        for at in range(len(found))
    ]
    features = [(np.zeros((len(d.labels), 4), np.float32),) * 2 for d in found]
    features = [(objects, objects[:0]) for objects, _ in features]
    path = build_store(
        folder, "tiny", entries, visual=found, regions=features, max_objects=3, max_relations=1
    )
    return open_store(path)


@pytest.fixture
def book():
    from features.vocab.codebook import Table

    words = Table(("<pad>", "<start>", "<end>", "<unk>", "red", "blue"), unknown=3)
    return Codebook(words, Table.of(["dog", "cat"]), Table.of([]), Table.of([]))


def test_a_store_keeps_the_probabilities(tmp_path):
    store = built(tmp_path / "s", FOUND)
    for at, found in enumerate(FOUND):
        graph = store.graph(f"{at}.jpg")
        assert graph.attributes == found.attributes
        assert graph.attribute_scores == found.attribute_scores
    assert store.has("object_attribute_score")


def test_a_store_without_probabilities_lacks_the_column(tmp_path):
    plain = [dataclasses.replace(found, attribute_scores=None) for found in FOUND]
    store = built(tmp_path / "s", plain)
    assert not store.has("object_attribute_score")
    assert store.graph("0.jpg").attribute_scores is None
    assert store.graph("0.jpg").attributes == FOUND[0].attributes


@pytest.mark.parametrize("scored", [True, False])
def test_batches_have_the_attributes_of_each_object(tmp_path, book, scored):
    found = FOUND if scored else [dataclasses.replace(f, attribute_scores=None) for f in FOUND]
    encoder = ImageEncoder(built(tmp_path / "s", found), book)
    batch = encoder.batch(np.array([2, 0, 1]))
    assert batch.attributes.tolist() == [[4, 0, 0], [4, 3, 5], [0, 0, 0]]  # small is unknown
    assert batch.attribute_objects.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    expected = [[1, 0, 0], [0.75, 0.5, 0.25] if scored else [1, 1, 1], [0, 0, 0]]
    assert batch.attribute_scores.tolist() == expected


def test_no_attributes_no_tensors(tmp_path, book):
    bare = [found_of(((), ()), None)]
    batch = ImageEncoder(built(tmp_path / "s", bare), book).batch(np.array([0]))
    assert batch.attributes is None


def test_photos_keep_attributes_and_the_shown_score(tmp_path, book):
    features = np.ones((2, 4), np.float32)
    photos = [
        Photo("a", FOUND[0], features, features[:0]),
        Photo("b", FOUND[1], features[:1], features[:0]),
    ]
    write_photos(tmp_path / "p.npz", photos)
    (first, second), _ = read_photos(tmp_path / "p.npz")
    assert first.found.attributes == FOUND[0].attributes
    assert first.found.attribute_scores == FOUND[0].attribute_scores
    assert first.found.shown == 0.4
    batch = image_batch([first[1:], second[1:]], book)
    assert batch.attributes.tolist() == [[4, 3, 5], [0, 0, 0]]
    assert batch.rows.tolist() == [-1, -2]
