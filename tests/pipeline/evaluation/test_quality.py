"""The SPICE metric, compared with hand counts."""

from __future__ import annotations

import math

import pytest

from features.errors import MissingDependency, MissingInput, UsageError
from features.records import TextGraph
from pipeline.quality import SUBSETS, spice, tuples, wordnet_synsets


def graph(objects: str, attributes: str = "", relations: str = "") -> TextGraph:
    """Return a graph from words separated by spaces: objects, ``a:x`` and ``a>p>b``."""
    names = tuple(objects.split())
    pairs = tuple(tuple(pair.split(":")) for pair in attributes.split())
    links = [link.split(">") for link in relations.split()]
    return TextGraph(
        caption="",
        tokens=names,
        objects=names,
        attributes=pairs,  # type: ignore[arg-type]
        relations=tuple((names.index(s), p, names.index(o)) for s, p, o in links),
    )


def test_tuples_of_a_graph() -> None:
    assert tuples(graph("dog ball", "dog:two", "dog>chase>ball")) == {
        ("dog",), ("ball",), ("dog", "two"), ("dog", "chase", "ball"),
    }  # fmt: skip


def test_f1_by_hand() -> None:
    # 4 candidate tuples, 3 of them among the 5 of the merged references
    candidate = graph("dog ball", "dog:red", "dog>chase>ball")
    references = [graph("dog ball", "", "dog>chase>ball"), graph("dog", "dog:two dog:small")]
    result = spice([candidate], [references])
    assert result.precision == pytest.approx(3 / 4)
    assert result.recall == pytest.approx(3 / 5)
    assert result.score == pytest.approx(2 * 3 / (4 + 5))
    assert result.subsets["object"] == 1.0
    assert result.subsets["relation"] == 1.0
    assert result.subsets["attribute"] == 0.0
    assert result.subsets["cardinality"] == 0.0
    assert result.subsets["colour"] == 0.0
    assert result.subsets["size"] == 0.0


def test_mean_over_images_and_missing_subsets() -> None:
    same = graph("dog")
    result = spice([same, same], [[same], [graph("cat")]])
    assert result.images == (1.0, 0.0)
    assert result.score == 0.5
    assert set(result.subsets) == set(SUBSETS)
    assert math.isnan(result.subsets["relation"])


def test_synonyms_match_in_every_position() -> None:
    table = {"puppy": "d", "dog": "d", "chase": "c", "follow": "c"}

    def synsets(lemma: str) -> frozenset[str]:
        return frozenset({table[lemma]} if lemma in table else ())

    candidate = graph("puppy ball", "", "puppy>follow>ball")
    reference = graph("dog ball", "", "dog>chase>ball")
    assert spice([candidate], [[reference]]).score == pytest.approx(1 / 3)
    assert spice([candidate], [[reference]], synsets=synsets).score == 1.0


def test_synonyms_merge_the_references() -> None:
    def synsets(lemma: str) -> frozenset[str]:
        return frozenset({"d"} if lemma in ("puppy", "dog") else {lemma})

    references = [graph("dog", "dog:red"), graph("puppy", "puppy:small")]
    result = spice([graph("dog", "dog:small")], [references], synsets=synsets)
    # merged: (dog), (dog, red), (dog, small)
    assert result.recall == pytest.approx(2 / 3)


def test_captions_as_text() -> None:
    result = spice(
        ["Two dogs chase a red ball."], [["A dog chases a ball.", "Two dogs run with a red ball."]]
    )
    # (dog) (ball) (dog, two) (ball, red) (dog, chase, ball); references add (dog, run with, ball)
    assert result.precision == 1.0
    assert result.recall == pytest.approx(5 / 6)


def test_empty_captions_score_nothing() -> None:
    assert spice([""], [["A dog."]]).score == 0.0
    assert spice(["A dog."], [[""]]).score == 0.0


def test_errors() -> None:
    with pytest.raises(UsageError, match="1 candidates and 0 lists"):
        spice(["a"], [])
    with pytest.raises(UsageError, match="image 1 has no references"):
        spice(["a", "b"], [["c"], []])


def test_missing_wordnet() -> None:
    with pytest.raises((MissingDependency, MissingInput), match="wn"):
        wordnet_synsets("no-such-lexicon:0")
