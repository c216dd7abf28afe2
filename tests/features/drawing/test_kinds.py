"""``with_kinds``: a general label where special ones are doubtful, in displays only."""

import dataclasses

import numpy as np
import pytest

from features.drawing import KINDS, strongest, with_kinds
from features.records import Detections, SceneGraph

A, B = [0, 0, 10, 20], [30, 0, 60, 40]


def graph(objects, shown=0.5, relations=()):
    """Return a graph of (label, score, box) objects."""
    return SceneGraph(
        "1",
        (100, 50),
        np.array([box for *_, box in objects], np.float32).reshape(-1, 4),
        tuple(label for label, *_ in objects),
        np.array([score for _, score, _ in objects], np.float32),
        tuple(relations),
        np.full(len(relations), 0.9, np.float32),
        np.zeros((len(relations), 4), np.float32),
        attributes=tuple((f"of {label}",) for label, *_ in objects),
        shown=shown,
    )


def added(whole):
    shown = with_kinds(whole)
    assert shown.labels[: len(whole.labels)] == whole.labels
    rows = range(len(whole.labels), len(shown.labels))
    return [(shown.labels[row], round(float(shown.scores[row]), 4)) for row in rows]


def test_doubtful_labels_of_one_box_make_a_person():
    whole = graph([("woman", 0.4, A), ("dog", 0.35, A), ("girl", 0.3, A)])
    assert added(whole) == [("person", round(1 - 0.6 * 0.7, 4))]
    shown = with_kinds(whole)
    assert shown.boxes[3].tolist() == A
    assert shown.attributes[3] == ("of woman",)  # the most probable label's


@pytest.mark.parametrize(
    "objects",
    [
        [("woman", 0.6, A), ("girl", 0.3, A)],  # one is sure enough
        [("woman", 0.4, A), ("girl", 0.3, B)],  # two boxes
        [("woman", 0.2, A), ("girl", 0.3, A)],  # not even together
        [("dog", 0.4, A), ("cat", 0.4, A)],  # no kind
        [],
    ],
)
def test_no_person_without_enough_evidence(objects):
    assert added(graph(objects)) == []


def test_scores_that_are_not_calibrated_are_not_combined():
    assert added(graph([("woman", 0.4, A), ("girl", 0.3, A)], shown=0.0)) == []


def test_several_people_are_people():
    assert added(graph([("crowd", 0.4, A), ("man", 0.3, A)]))[0][0] == "people"
    assert added(graph([("crowd", 0.3, A), ("man", 0.4, A)]))[0][0] == "person"


def test_relations_follow_to_the_person_that_is_drawn():
    objects = [("horse", 0.9, B), ("boy", 0.4, A), ("girl", 0.4, A)]
    whole = graph(objects, relations=[(2, "ride", 0), (1, "ride", 0)])
    shown = with_kinds(whole)
    assert shown.relations == ((3, "ride", 0), (3, "ride", 0))
    chosen = strongest(shown)
    assert [shown.labels[row] for row in chosen.objects] == ["person", "horse"]
    assert len(chosen.relations) == 1
    assert strongest(whole).objects == (0,)  # without it nobody rides


def test_a_relation_is_as_probable_as_the_person():
    objects = [("horse", 0.9, B), ("boy", 0.25, A), ("girl", 0.4, A)]
    whole = graph(objects, relations=[(0, "near", 0), (2, "ride", 0)])
    whole = dataclasses.replace(
        whole,
        relation_scores=np.array([0.15, 0.12], np.float32),
        union_boxes=np.array([B, [0, 0, 60, 40]], np.float32),
        relations_shown=0.1,
    )
    shown = with_kinds(whole)
    person = 1 - 0.75 * 0.6
    assert shown.relations == ((3, "ride", 0), (0, "near", 0))  # best first
    np.testing.assert_allclose(shown.relation_scores, [0.12 * person / 0.4, 0.15], rtol=1e-5)
    assert shown.union_boxes.tolist() == [[0, 0, 60, 40], B]
    plain = with_kinds(dataclasses.replace(whole, relations_shown=0.0))
    assert plain.relation_scores.tolist() == whole.relation_scores.tolist()


def test_detections_keep_their_features():
    whole = graph([("boy", 0.4, A), ("girl", 0.4, A)])
    found = Detections(
        whole.boxes, whole.labels, whole.scores, whole.size, np.eye(2, dtype=np.float32), shown=0.5
    )
    assert with_kinds(found).features.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert with_kinds(dataclasses.replace(found, features=None)).relations is None
    bare = with_kinds(dataclasses.replace(whole, relations_shown=0.1))
    assert bare.relations == ()


def test_no_label_is_of_two_kinds():
    assert len(frozenset.union(*KINDS.values())) == sum(map(len, KINDS.values()))
