"""Extraction rules: every example of the table, positions, profiles and lemmas."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import UnknownName, UsageError
from features.records import TextGraph
from pipeline.language.dependency import Tree, to_ud
from pipeline.language.lemmas import Lemmas
from pipeline.language.repair import repair
from pipeline.language.spice.rules import Rule, markdown, rules
from pipeline.language.spice.triplets import extract
from pipeline.parse import load_parser, parse

CASES = [
    (rule, profile)
    for rule in rules()
    for profile in (("spice", "extended") if rule.profile == "both" else (rule.profile,))
]


@pytest.mark.parametrize(("rule", "profile"), CASES, ids=lambda x: getattr(x, "name", x))
def test_example_of_the_rule(rule: Rule, profile: str) -> None:
    graph = parse([rule.example], profile=profile)[0]
    assert set(graph.attributes) == set(rule.attributes)
    assert set(graph.triplets) == set(rule.relations)


def test_rule_names_are_unique_and_the_page_is_current() -> None:
    names = [rule.name for rule in rules()]
    assert len(names) == len(set(names))
    page = Path(__file__).parents[3] / "docs" / "rules.md"
    assert page.read_text(encoding="utf-8") == markdown(), "run: python -m pipeline rules"


def test_pronouns_are_mentions_of_their_antecedent() -> None:
    graph = parse(["A boy rides his bike."])[0]
    assert graph.objects == ("boy", "bike")
    assert graph.object_positions == ((1, 3), (4,))
    assert graph.relations == ((0, "ride", 1), (0, "have", 1))
    assert graph.relation_positions == ((2,), ())


def test_equal_nouns_are_two_objects() -> None:
    graph = parse(["A brown dog chases a black dog."])[0]
    assert graph.objects == ("dog", "dog")
    assert graph.relations == ((0, "chase", 1),)
    assert sorted(zip(graph.attribute_objects, graph.attributes, strict=True)) == [
        (0, ("dog", "brown")),
        (1, ("dog", "black")),
    ]


def test_roles_follow_the_graph() -> None:
    graph = parse(["A small dog sits in front of a house."])[0]
    assert graph.roles == (
        "other", "attribute", "object", "relation", "relation", "relation", "relation",
        "other", "object", "other",
    )  # fmt: skip


def test_clear_and_ud_trees_give_the_same_tuples() -> None:
    captions = [rule.example for rule in rules()]
    for scheme in ("clear", "ud1-basic"):
        stored = parse(captions, scheme=scheme)
        bare = [
            TextGraph(
                g.caption, g.tokens, g.lemmas, g.upos, g.xpos, g.heads, g.deprels,
                scheme=scheme, sentence_starts=g.sentence_starts,
            )
            for g in stored
        ]  # fmt: skip
        again = extract(map(to_ud, bare), "extended")
        with pytest.raises(UsageError, match="to_ud"):
            extract(bare)
        same = sum(set(a.triplets) == set(b.triplets) for a, b in zip(again, stored, strict=True))
        assert same >= 0.9 * len(captions)


def test_profiles_share_one_parse() -> None:
    parsed = load_parser("spacy").parse(["A bike is parked beside a fence."])
    assert extract(parsed, "spice")[0].triplets == []
    assert extract(parsed, "extended")[0].triplets == [("bike", "park beside", "fence")]
    with pytest.raises(UnknownName, match="extended, spice"):
        extract(parsed, "short")


@pytest.mark.parametrize(
    ("form", "tag", "lemma"),
    [
        ("riding", "VBG", "ride"), ("rides", "VBZ", "ride"), ("sitting", "VBG", "sit"),
        ("hopping", "VBG", "hop"), ("hoping", "VBG", "hope"), ("swinging", "VBG", "swing"),
        ("carries", "VBZ", "carry"), ("worn", "VBN", "wear"), ("lying", "VBG", "lie"),
        ("jeans", "NNS", "jeans"), ("clothes", "NNS", "clothes"), ("goggles", "NNS", "goggles"),
        ("movies", "NNS", "movie"), ("dishes", "NNS", "dish"), ("women", "NNS", "woman"),
        ("t-shirts", "NNS", "t-shirt"), ("multicolored", "JJ", "multicolored"), ("An", "DT", "a"),
        ("rollerblading", "VBG", "rollerblade"), ("is", "VBZ", "be"),
    ],
)  # fmt: skip
def test_lemmas(form: str, tag: str, lemma: str) -> None:
    assert Lemmas.installed().of(form, tag) == lemma


def test_lemmas_by_spelling_alone() -> None:
    bare = Lemmas()
    assert [bare.of(f, "VBG") for f in ("hopping", "riding", "waving")] == ["hop", "ride", "wave"]


def test_agreement_makes_a_verb_of_a_plural() -> None:
    """`a crane flies over water`, parsed as a noun phrase with the head `flies`."""
    words = ["a", "crane", "flies", "over", "water"]
    tags = ["DT", "NN", "NNS", "IN", "NN"]
    heads = [2, 2, -1, 4, 2]
    rels = ["det", "compound", "root", "case", "nmod"]
    tree = Tree(words, tags, heads, rels)
    repair(tree, lambda form: True)
    assert (tree.tags[2], tree.heads, tree.rels) == (
        "VBZ",
        [1, 2, -1, 4, 2],
        ["det", "nsubj", "root", "case", "obl"],
    )


def test_a_singular_verb_has_one_subject() -> None:
    words = ["a", "man", "in", "a", "coat", "and", "jeans", "is", "walking"]
    tags = ["DT", "NN", "IN", "DT", "NN", "CC", "NNS", "VBZ", "VBG"]
    heads = [1, 8, 4, 4, 1, 6, 1, 8, -1]
    rels = ["det", "nsubj", "case", "det", "nmod", "cc", "conj", "aux", "root"]
    tree = Tree(words, tags, heads, rels)
    repair(tree, lambda form: False)
    assert tree.heads[6] == 4
