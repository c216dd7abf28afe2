"""Parsing: unusual input, valid positions, independence of order and batches."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import MissingInput, UnknownName, UsageError
from features.records import TextGraph
from pipeline.parse import load_parser, parse, parsers

WORDS = """
    a the two some dog man woman people group of in on next to front with who is are being riding
    sits jumps holding red wet black his its and or , . while to up lots it 's not there
""".split()  # noqa: SIM905
ODD = {
    "empty": "",
    "blank": " \t ",
    "long": "a dog and " * 700,
    "emoji": "A dog 🐕‍🦺 runs 🎾🎾 fast 👩🏽‍🚀.",
    "rtl": "كلب يركض في الحديقة",
    "cjk": "一只狗在公园里奔跑。犬が走る。",
    "control": "A \x07dog\x1b[31m runs\x08.",
    "nul": "A dog\x00 runs.",
    "surrogate": "A dog \ud83d runs \udc15.",
    "html": "<b>A dog</b> &amp; a cat<br/>run.",
    "two": "A dog runs. Two cats sit on a mat.",
    "capitals": "A DOG RUNS ON THE BEACH",
    "marks": "... !!! ??? --- ((( )))",
    "numbers": "1 2 3 4 5",
    "url": "https://example.org/?q=" + "x" * 3000,
    "one": "dog",
    "of": "of of of of",
    "pronouns": "it its it its him his",
    "newlines": "A dog\nruns\r\nfast.",
}


def check(graph: TextGraph) -> None:
    """Assert what must be true of any parsed caption."""
    n = len(graph.tokens)
    columns = (graph.lemmas, graph.upos, graph.xpos, graph.heads, graph.deprels)
    assert all(len(column) == n for column in columns)
    assert len(graph.roles) == n
    assert bool(n) == (graph.problem != "empty")
    bounds = [*graph.sentence_starts, n]
    for low, high in pairwise(bounds):
        heads = graph.heads[low:high]
        assert heads.count(-1) == 1
        assert all(low <= head < high for head in heads if head >= 0)
        assert all(head != low + at for at, head in enumerate(heads))
    m = len(graph.objects)
    assert len(graph.object_positions) == m
    firsts = [mentions[0] for mentions in graph.object_positions]
    assert len(set(firsts)) == m
    assert all(0 <= at < n for mentions in graph.object_positions for at in mentions)
    assert len(graph.attributes) == len(graph.attribute_objects) == len(graph.attribute_positions)
    for (name, _), row, at in zip(
        graph.attributes, graph.attribute_objects, graph.attribute_positions, strict=True
    ):
        assert graph.objects[row] == name
        assert -1 <= at < n
    assert len(graph.relations) == len(graph.relation_positions)
    for (subject, predicate, other), span in zip(
        graph.relations, graph.relation_positions, strict=True
    ):
        assert 0 <= subject < m
        assert 0 <= other < m
        assert subject != other
        assert predicate
        assert all(0 <= at < n for at in span)


@pytest.mark.parametrize("profile", ["spice", "extended"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_input_is_parsed_or_has_a_problem(kind: str, profile: str) -> None:
    graph = parse([ODD[kind]], profile=profile)[0]
    assert graph.caption == ODD[kind]
    check(graph)
    assert graph.problem == {"empty": "empty", "blank": "empty", "long": "too long"}.get(kind, "")


def test_odd_captions_do_not_affect_their_neighbours() -> None:
    good = "A man is riding a horse."
    mixed = [text for odd in ODD.values() for text in (odd, good)]
    alone = parse([good])[0]
    for graph in parse(mixed)[1::2]:
        assert graph.heads == alone.heads
        assert graph.triplets == [("man", "ride", "horse")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=30), st.sampled_from(["spice", "extended"]))
def test_positions_are_valid(words: list[str], profile: str) -> None:
    check(parse([" ".join(words)], profile=profile)[0])


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_parsed(caption: str) -> None:
    check(parse([caption])[0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=14), max_size=6), st.randoms())
def test_order_and_batch_do_not_matter(lines: list[list[str]], draw: random.Random) -> None:
    captions = [" ".join(line) for line in lines]
    together = dict(zip(captions, parse(captions), strict=True))
    shuffled = list(captions)
    draw.shuffle(shuffled)
    assert all(_same(graph, together[graph.caption]) for graph in parse(shuffled))
    for caption in captions:
        assert _same(parse([caption])[0], together[caption])


def _same(one: TextGraph, other: TextGraph) -> bool:
    names = ("tokens", "lemmas", "xpos", "heads", "deprels", "roles", "relations", "attributes")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def test_captions_in_capitals() -> None:
    graph = parse(["A DOG RUNS ON THE BEACH"])[0]
    assert graph.tokens[1] == "DOG"
    assert graph.triplets == [("dog", "run on", "beach")]


def test_two_sentences_have_two_roots() -> None:
    graph = parse(["A dog runs. Two cats sit on a mat."])[0]
    assert graph.sentence_starts == (0, 4)
    assert graph.triplets == [("cat", "sit on", "mat")]
    assert ("cat", "two") in graph.attributes


def test_the_parser_is_loaded_once_and_names_its_version() -> None:
    parser = load_parser("spacy")
    assert load_parser("spacy") is parser
    assert "spacy-" in parser.version
    assert parser.version.startswith("core_web_sm")


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="spacy, stanza"):
        parse(["x"], parser="spicy")
    with pytest.raises(UnknownName, match="extended, spice"):
        parse(["x"], profile="spise")
    with pytest.raises(UnknownName, match="clear, ud, ud1-basic"):
        parse(["x"], scheme="ud2")
    with pytest.raises(UsageError, match="colour"):
        load_parser("spacy", colour="red")
    with pytest.raises(MissingInput, match="no_such_model"):
        load_parser("spacy", model="no_such_model")


def test_a_parser_plug_in() -> None:
    class Words:
        name, version = "words", "1"

        def parse(self, captions: list[str]) -> list[TextGraph]:
            made = []
            for caption in captions:
                tokens = tuple(caption.split())
                n = len(tokens)
                made.append(
                    TextGraph(
                        caption,
                        tokens,
                        tokens,
                        ("NOUN",) * n,
                        ("NN",) * n,
                        (-1, *[0] * (n - 1)),
                        ("root", *["dep"] * (n - 1)),
                    )
                )
            return made

    parsers.register("words-of-a-test")(Words)
    graph = parse(["dog ball"], parser="words-of-a-test")[0]
    assert graph.objects == ("dog", "ball")
