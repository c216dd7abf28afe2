"""Relation predictors: geometric, precomputed and the fitted prior."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UnknownName, UsageError
from features.records import Detections
from pipeline.vision.predictors.geometric import PREDICATES, predicate_fits
from pipeline.vision.relations import (
    create_relations,
    rank_relations,
    relation_predictors,
    resolve_relations,
)


def found_of(boxes, labels=None, scores=None, **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = labels or ["object"] * len(boxes)
    scores = np.ones(len(boxes), np.float32) if scores is None else np.array(scores, np.float32)
    return Detections(boxes, tuple(labels), scores, (200, 200), **more)


@pytest.mark.parametrize(
    ("subject", "target", "predicate"),
    [
        ([40, 40, 60, 60], [0, 0, 150, 150], "inside"),
        ([60, 20, 100, 105], [20, 95, 180, 160], "on"),
        ([60, 0, 100, 30], [50, 120, 110, 180], "above"),
        ([60, 120, 100, 180], [50, 0, 110, 30], "below"),
        ([0, 50, 50, 150], [60, 50, 110, 150], "next to"),
        ([60, 80, 120, 190], [20, 20, 140, 150], "in front of"),
    ],
)
def test_geometric_predicates(subject, target, predicate):
    fits = predicate_fits(np.array([subject, target], np.float32))
    assert PREDICATES[fits[:, 0, 1].argmax()] == predicate


def test_fits_are_in_the_unit_interval_and_symmetric():
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 150, (10, 2))
    boxes = np.concatenate([low, low + draw.uniform(1, 60, (10, 2))], 1).astype(np.float32)
    fits = predicate_fits(boxes)
    assert fits.min() >= 0
    assert fits.max() <= 1
    above, below = PREDICATES.index("above"), PREDICATES.index("below")
    np.testing.assert_array_equal(fits[above], fits[below].T)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_geometric_properties(seed, limit):
    draw = np.random.default_rng(seed)
    n = int(draw.integers(0, 9))
    low = draw.integers(0, 150, (n, 2))
    boxes = np.concatenate([low, low + draw.integers(0, 50, (n, 2))], 1)
    found = found_of(boxes, scores=draw.uniform(0, 1, n))
    relations, scores = create_relations("geometric").predict(found, limit)
    assert len(relations) == len(scores) <= limit
    assert (np.diff(scores) <= 0).all()
    assert ((scores >= 0.05) & (scores <= 1)).all()
    pairs = [frozenset((s, o)) for s, _, o in relations]
    assert all(len(pair) == 2 for pair in pairs)  # no self relations
    assert len(set(pairs)) == len(pairs)  # one relation per pair
    again, _ = create_relations("geometric").predict(found, limit)
    assert again == relations


def test_ties_are_ordered_by_rows():
    pairs = np.array([[2, 1], [0, 2], [0, 1]])
    relations, scores = rank_relations(pairs, ["a", "b", "c"], np.full(3, 0.5, np.float32), 2)
    assert relations == ((0, "c", 1), (0, "b", 2))
    assert scores.tolist() == [0.5, 0.5]


def test_precomputed_drops_self_relations_and_repetitions():
    links = ((0, "on", 1), (1, "on", 1), (0, "on", 1), (1, "near", 0), (0, "near", 1))
    found = found_of([[0, 0, 9, 9]] * 2, relations=links)
    relations, scores = create_relations("precomputed").predict(found, 2)
    assert relations == ((0, "on", 1), (1, "near", 0))
    assert scores.tolist() == [1, 1]
    marked = dataclasses.replace(found, relation_scores=np.linspace(1, 0.6, 5, dtype=np.float32))
    _, scores = create_relations("precomputed").predict(marked, 9)
    np.testing.assert_allclose(scores, [1, 0.7, 0.6], rtol=1e-6)


class Brings:
    def __init__(self, *provides):
        self.provides = frozenset(provides)


def test_names_resolve():
    assert resolve_relations("auto", Brings("relations")) == "precomputed"
    assert resolve_relations("auto", Brings("labels")) == "geometric"
    assert resolve_relations("prior", Brings()) == "prior"
    with pytest.raises(UsageError, match="provides relations"):
        resolve_relations("precomputed", Brings("labels"))
    with pytest.raises(UnknownName, match="geometric"):
        resolve_relations("geometrik", Brings())
    assert {"geometric", "precomputed", "prior"} <= set(relation_predictors)


def test_prior_predicts_wearing():
    found = found_of(
        [[50, 20, 110, 190], [65, 15, 95, 40], [120, 100, 190, 190]], ["man", "hat", "dog"]
    )
    prior = create_relations("prior")
    assert prior.classify(found, [(0, 1)]) == ["wearing"]
    relations, scores = prior.predict(found, 3)
    assert relations[0] == (0, "wearing", 1)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert len(relations) == 3


def test_prior_multiplies_the_objects_scores():
    boxes = [[50, 20, 110, 190], [65, 15, 95, 40]]
    _, sure = create_relations("prior").predict(found_of(boxes, ["man", "hat"]), 1)
    _, half = create_relations("prior").predict(found_of(boxes, ["man", "hat"], [0.5, 0.5]), 1)
    np.testing.assert_allclose(half, sure / 4, rtol=1e-6)


def test_prior_with_unknown_labels_and_few_objects():
    prior = create_relations("prior")
    strange = found_of([[50, 20, 110, 190], [65, 15, 95, 40]], ["zyzzyva", "fire hydrant"])
    relations, scores = prior.predict(strange, 5)
    assert len(relations) == 2
    assert np.isfinite(scores).all()
    for count in (0, 1):
        assert prior.predict(found_of([[0, 0, 5, 5]] * count), 5)[0] == ()


def test_identities_hold_options_and_hashes():
    assert create_relations("geometric", min_score=0.2).identity()["min_score"] == 0.2
    assert len(create_relations("prior").identity()["table"]) == 64
    with pytest.raises(UsageError, match="min_score"):
        create_relations("geometric", min_score=2)
