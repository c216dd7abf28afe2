"""Dependency schemes: hand-made trees, round trips, and one tree per sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UnknownName
from features.records import TextGraph
from pipeline.language.dependency import Tree, coarse_tag, from_ud, to_ud
from pipeline.parse import parse


def clear_to_ud(*columns):
    """Return heads and labels of a CLEAR tree in UD v2."""
    tree = Tree(*columns)
    tree.clear_to_ud()
    return tree.heads, tree.rels


SHARED = Path(__file__).resolve().parents[3].parent / "shared"


def test_prepositions_become_case() -> None:
    words = ["men", "in", "hats", "sit", "on", "a", "bench"]
    tags = ["NNS", "IN", "NNS", "VBP", "IN", "DT", "NN"]
    heads = [3, 0, 1, -1, 3, 6, 4]
    deps = ["nsubj", "prep", "pobj", "ROOT", "prep", "det", "pobj"]
    assert clear_to_ud(words, tags, heads, deps) == (
        [3, 2, 0, -1, 6, 6, 3],
        ["nsubj", "case", "nmod", "root", "case", "det", "obl"],
    )


def test_chains_of_prepositions() -> None:
    words = ["dog", "runs", "out", "of", "the", "house"]
    tags = ["NN", "VBZ", "IN", "IN", "DT", "NN"]
    heads = [1, -1, 1, 2, 5, 3]
    deps = ["nsubj", "ROOT", "prep", "prep", "det", "pobj"]
    head, rel = clear_to_ud(words, tags, heads, deps)
    assert head == [1, -1, 5, 5, 5, 1]
    assert rel == ["nsubj", "root", "case", "case", "det", "obl"]


def test_agent_and_passive() -> None:
    words = ["the", "kite", "is", "flown", "by", "boys"]
    tags = ["DT", "NN", "VBZ", "VBN", "IN", "NNS"]
    heads = [1, 3, 3, -1, 3, 4]
    deps = ["det", "nsubjpass", "auxpass", "ROOT", "agent", "pobj"]
    head, rel = clear_to_ud(words, tags, heads, deps)
    assert head == [1, 3, 3, -1, 5, 3]
    assert rel == ["det", "nsubj:pass", "aux:pass", "root", "case", "obl:agent"]


def test_copula_depends_on_its_predicate() -> None:
    words = ["the", "dogs", "are", "wet", "and", "muddy"]
    tags = ["DT", "NNS", "VBP", "JJ", "CC", "JJ"]
    heads = [1, 2, -1, 2, 3, 3]
    deps = ["det", "nsubj", "ROOT", "acomp", "cc", "conj"]
    head, rel = clear_to_ud(words, tags, heads, deps)
    assert head == [1, 3, 3, -1, 5, 3]
    assert rel == ["det", "nsubj", "cop", "root", "cc", "conj"]
    tree = Tree(words, tags, head, rel)
    tree.ud_to_v1()
    assert tree.heads[4] == 3  # UD v1: cc on the first conjunct


def test_conjunct_chains_are_flat_in_ud() -> None:
    words = ["apples", ",", "pears", "and", "grapes"]
    tags = ["NNS", ",", "NNS", "CC", "NNS"]
    heads = [-1, 0, 0, 2, 2]
    deps = ["ROOT", "punct", "conj", "cc", "conj"]
    assert clear_to_ud(words, tags, heads, deps)[0] == [-1, 2, 0, 4, 0]


@pytest.mark.parametrize("scheme", ["clear", "ud1-basic"])
@pytest.mark.parametrize(
    "caption",
    ["A man sits on a bench.", "The dogs are wet.", "A boy eats apples, pears and grapes."],
)
def test_schemes_convert_back_to_ud(caption: str, scheme: str) -> None:
    ud = parse([caption])[0]
    other = parse([caption], scheme=scheme)[0]
    assert other.scheme == scheme
    assert to_ud(other).heads == ud.heads


def test_unknown_scheme() -> None:
    with pytest.raises(UnknownName, match="ud1-basic"):
        from_ud(TextGraph("x"), "ud3")


def test_coarse_tags_use_the_relation() -> None:
    assert [coarse_tag(t, r) for t, r in [("VBZ", "root"), ("TO", "case"), ("'' ", "punct")]] == [
        "VERB",
        "ADP",
        "PUNCT",
    ]


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    n = draw(st.integers(1, 12))
    heads = draw(st.lists(st.integers(-2, n + 2), min_size=n, max_size=n))
    starts = sorted({0, *draw(st.lists(st.integers(0, n - 1), max_size=3))})
    return heads, starts


@given(forests())
def test_any_heads_become_one_tree_per_sentence(case: tuple[list[int], list[int]]) -> None:
    heads, starts = case
    labels = ["dep"] * len(heads)
    tree = Tree(labels, labels, heads, labels)
    tree.connect(starts)
    head, rel = tree.heads, tree.rels
    for low, high in zip(starts, [*starts[1:], len(heads)], strict=True):
        assert [head[i] for i in range(low, high)].count(-1) == 1
        for token in range(low, high):
            seen = set()
            while token >= 0:
                assert low <= token < high
                assert token not in seen
                seen.add(token)
                token = head[token]
    assert [rel[i] for i in range(len(head)) if head[i] < 0] == ["root"] * len(starts)


@pytest.mark.realdata
def test_recorded_graphs_in_both_schemes() -> None:
    path = SHARED / "data/captions-gold/depgraph_vectors.json"
    if not path.exists():
        pytest.skip("no ../shared/data beside this checkout")
    for case in json.loads(path.read_text()):
        n = len(case["tokens"])
        heads, deps = [-1] * n, [""] * n
        tags = [_tag(word) for word in case["tokens"]]
        for head, token, label in case["clear"]:
            heads[token - 1], deps[token - 1] = head - 1, label
        found, labels = clear_to_ud(case["tokens"], tags, heads, deps)
        listed = sorted(
            [h + 1, i + 1, r] for i, (h, r) in enumerate(zip(found, labels, strict=True))
        )
        assert listed == sorted(case["ud"])


def _tag(word: str) -> str:
    """Return the Penn tag of a word of the recorded graphs."""
    closed = {"a": "DT", "the": "DT", "in": "IN", "on": "IN", "by": "IN", "two": "CD", "'s": "POS"}
    verbs = {"is": "VBZ", "are": "VBP", "sit": "VBP", "flown": "VBN"}
    adjectives = {"brown", "gray", "wooden", "small", "wet"}
    return closed.get(word) or verbs.get(word) or ("JJ" if word in adjectives else "NN")
