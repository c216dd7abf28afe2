"""Filters of the grid: from a URL to images and back."""

import numpy as np
import pytest
from werkzeug.datastructures import MultiDict

from features.errors import UnknownName, UsageError
from features.finding import find
from features.web import Filters, Ranked, Shelf
from features.web.selection import neighbours, select
from tests.features.web.conftest import QUOTES, SCRIPT


def read(*pairs):
    return Filters.read(MultiDict(pairs))


def ids(site, *pairs):
    return [site.image_id(row) for row in select(site, read(*pairs)).rows.tolist()]


@pytest.fixture
def site(shelf):
    return shelf.first


def test_a_url_holds_every_filter():
    filters = Filters(
        split="val", labels=("dog", QUOTES), attribute="red", predicate="ride", source="images",
        find="man - ride - *", least=0, most=9, confidence=0.0, certainty=0.25, skipped=True,
        text="a dog", run="sgm", boxes=True, page=3,
    )  # fmt: skip
    pairs = []
    for name, value in filters.arguments(page=3).items():
        pairs += [(name, one) for one in (value if isinstance(value, tuple) else (value,))]
    assert read(*pairs) == filters
    assert filters.arguments(split="")["label"] == ("dog", QUOTES)
    assert "page" not in filters.arguments(split="")


@pytest.mark.parametrize(
    "pair",
    [("min", "-1"), ("max", "x"), ("confidence", "2"), ("confidence", "nan"), ("in", "words"),
     ("relations", "inf"), ("page", "1e9"), ("find", "x" * 301), ("label", "x" * 301)],
)  # fmt: skip
def test_values_that_are_none(pair):
    with pytest.raises(UsageError):
        read(pair)


def test_each_filter_alone(site):
    assert ids(site) == ["a.jpg", "b.jpg", "c.jpg"]
    assert ids(site, ("split", "val")) == ["b.jpg"]
    assert ids(site, ("skipped", "1")) == ["d.jpg"]
    assert ids(site, ("label", "dog")) == ["b.jpg"]
    assert ids(site, ("label", "Dog")) == ["b.jpg"]
    assert ids(site, ("label", QUOTES)) == ["a.jpg"]
    assert ids(site, ("label", "person"), ("label", "bicycle")) == ["a.jpg"]
    assert ids(site, ("label", "person"), ("label", "dog")) == []
    assert ids(site, ("min", "1"), ("max", "2")) == ["b.jpg"]
    assert ids(site, ("max", "0")) == ["c.jpg"]


def test_scores_decide_what_counts(site):
    assert ids(site, ("label", "bench"), ("confidence", "0.5")) == []
    assert ids(site, ("min", "1"), ("max", "1"), ("confidence", "0.5")) == ["b.jpg"]
    assert ids(site, ("predicate", SCRIPT), ("relations", "0.1")) == ["a.jpg"]
    assert ids(site, ("predicate", SCRIPT), ("relations", "0.3")) == []
    # the score of relations says nothing about objects
    assert ids(site, ("label", "bench"), ("relations", "0.9")) == ["b.jpg"]


def test_attributes_and_predicates_are_seen_or_said(site):
    assert ids(site, ("attribute", "red")) == ["a.jpg"]
    assert ids(site, ("attribute", SCRIPT), ("in", "images")) == ["a.jpg"]
    assert ids(site, ("predicate", "ride")) == ["a.jpg"]
    assert ids(site, ("predicate", "riding")) == ["a.jpg"]
    with pytest.raises(UnknownName, match="predicate"):
        ids(site, ("predicate", "riding"), ("in", "captions"))
    with pytest.raises(UnknownName, match="label"):
        ids(site, ("label", "unicorn"))
    with pytest.raises(UnknownName, match="split"):
        ids(site, ("split", "nowhere"))


def test_a_query_finds_what_the_command_finds(site):
    for query in ("dog", "man - ride - *", "* - sit - bench", "red bike"):
        expected = find(site.store, query).image_ids()
        assert ids(site, ("find", query)) == expected
        assert expected
    assert ids(site, ("find", "dog"), ("split", "val")) == ["b.jpg"]
    with pytest.raises(UsageError, match="query"):
        ids(site, ("find", "a - b - c - d"))


def test_random_stores_agree_with_their_tables(tiny_store):
    store = tiny_store(40, skipped=(3, 17), seed=5)
    site = Shelf([store.path]).first
    objects, captions = store.table("visual_objects"), store.table("relations")
    seen = store.table("visual_relations")
    for label in ("dog", "man"):
        for least in ("0", "0.4"):
            own = objects[(objects["label"] == label) & (objects["score"] >= float(least))]
            expected = sorted(set(own["image"]))
            assert ids(site, ("label", label), ("confidence", least)) == expected
    said = set(captions[captions["predicate"] == "ride"]["image"])
    assert ids(site, ("predicate", "ride")) == sorted(said)
    own = seen[(seen["predicate"] == "on") & (seen["score"] >= 0.3)]
    assert ids(site, ("predicate", "on"), ("relations", "0.3")) == sorted(set(own["image"]))
    counts = objects[objects["score"] >= 0.3].groupby("image").size()
    expected = sorted(counts[(counts >= 2) & (counts <= 3)].index)
    assert ids(site, ("min", "2"), ("max", "3"), ("confidence", "0.3")) == expected


def test_a_run_orders_the_images_that_the_filters_leave(shelf):
    site = Shelf([shelf.first.store.path]).first
    order, scores = np.array([2, 1, 0]), np.float32([0.9, 0.5, 0.1])
    asked = []

    def rank(site, text, split):
        asked.append((text, split))
        return Ranked(order, scores, ("a note",))

    with pytest.raises(UsageError, match="--run"):
        ids(site, ("text", "a dog"))
    site.rankers["best"] = rank
    found = select(site, read(("text", "a dog"), ("run", "best"), ("min", "1")))
    assert found.rows.tolist() == [1, 0]
    assert found.notes == ("a note",)
    assert found.scores == {1: 0.5, 0: pytest.approx(0.1)}
    assert asked == [("a dog", "")]
    with pytest.raises(UnknownName, match="run"):
        ids(site, ("text", "a dog"), ("run", "worst"))


def test_neighbours_follow_the_selection(site):
    found = select(site, read(("find", "dog")))
    first, second = found.rows.tolist()
    assert neighbours(found, first) == (None, second, 1)
    assert neighbours(found, second) == (first, None, 2)
    assert neighbours(found, 3) == (None, None, 0)
