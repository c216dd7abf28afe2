"""``Codebook.without``: parts of the graphs that batches leave out."""

import dataclasses

import numpy as np
import pytest

from features.batches import ImageBatch
from features.batches.image_encoder import ImageEncoder, image_batch
from features.errors import UsageError
from features.format import build_store
from features.records import Caption, Detections, ImageEntry
from features.store import open_store
from features.vocab import Codebook

FIELDS = [field.name for field in dataclasses.fields(ImageBatch)]
CHANGED = {
    "labels": {"labels"},
    "predicates": {"predicates"},
    "attributes": {"attributes", "attribute_objects", "attribute_scores"},
    "relations": {
        "relation_mask", "relations", "predicates", "relation_scores", "union_boxes", "unions",
    },
    "unions": {"unions"},
    "features": {"objects", "unions"},
    "features[1:3]": {"objects", "unions"},
    "scene": {"object_mask"},
}  # fmt: skip


def graph(labels, related):
    n = len(labels)
    boxes = np.array([[k, k, k + 5, k + 6] for k in range(n)], np.float32)
    return Detections(
        boxes,
        labels,
        np.linspace(0.9, 0.1, n).astype(np.float32),
        (20, 20),
        attributes=tuple(("red",) for _ in labels),
        attribute_scores=tuple((0.5,) for _ in labels),
        relations=((1, "on", 0),) if related else (),
        relation_scores=np.full(int(related), 0.7, np.float32),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    found = [graph(("dog", "mat", "scene"), True), graph(("scene",), False)]
    entries = [
        ImageEntry(f"{at}.jpg", f"{at}.jpg", "train", (Caption(f"{at}#0", "a red dog"),))
        for at in range(2)
    ]
    rng = np.random.default_rng(0)
    features = [
        tuple(rng.normal(size=(k, 4)).astype(np.float32) for k in (len(d.labels), len(d.relations)))
        for d in found
    ]
    path = build_store(
        tmp_path_factory.mktemp("s") / "store", "tiny", entries, visual=found, regions=features,
        max_objects=3, max_relations=2,
    )  # fmt: skip
    return open_store(path), [(d, *f) for d, f in zip(found, features, strict=True)]


def both(store, parts):
    """Return the batch of the stored images, and that of the same images without a store."""
    opened, images = store
    book = Codebook.from_store(opened, without=parts)
    stored = ImageEncoder(opened, book).batch(np.arange(2))
    return stored, image_batch(images, book, max_objects=3, max_relations=2)


def equal(a, b):
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a == b).all())


@pytest.mark.parametrize("part", sorted(CHANGED))
def test_exactly_the_part_is_left_out(store, part):
    whole, left = both(store, ())[0], both(store, (part,))[0]
    changed = {name for name in FIELDS if not equal(getattr(whole, name), getattr(left, name))}
    assert changed == CHANGED[part]


@pytest.mark.parametrize("part", sorted(CHANGED))
def test_new_photos_are_treated_like_stored_ones(store, part):
    stored, new = both(store, (part,))
    for name in set(FIELDS) - {"rows", "objects", "unions"}:
        assert equal(getattr(stored, name), getattr(new, name)), name
    for name in ("objects", "unions"):  # the store has float16
        np.testing.assert_allclose(getattr(stored, name), getattr(new, name), atol=2e-3)


def test_values_that_take_the_place(store):
    batch = both(store, ("labels", "predicates", "features[1:3]", "scene"))[0]
    assert batch.labels.tolist() == [[1, 1, 1], [1, 0, 0]]  # <unk>, 0 where padded
    assert batch.predicates.tolist() == [[1, 0], [0, 0]]
    assert batch.object_mask.tolist() == [[True, True, False], [True, False, False]]
    assert not batch.objects[..., 1:3].any()
    assert batch.objects[0, :, 0].all()
    assert both(store, ("relations",))[0].relation_mask.sum() == 0


def test_a_saved_codebook_keeps_what_it_leaves_out(store, tmp_path):
    Codebook.from_store(store[0], without=("unions", "labels")).save(tmp_path / "c.json")
    assert Codebook.load(tmp_path / "c.json").without == ("labels", "unions")


@pytest.mark.parametrize("name", ["label", "features[3:1]", "features[:]", ""])
def test_unknown_parts_are_named(store, name):
    with pytest.raises(UsageError, match="no part of a graph") as error:
        Codebook.from_store(store[0], without=(name,))
    assert repr(name) in str(error.value)
    assert "features[A:B]" in str(error.value)


def test_a_slice_that_the_store_does_not_have(store):
    with pytest.raises(UsageError, match=r"features\[2:9\].*have 4 numbers"):
        both(store, ("features[2:9]",))
