"""Negatives: grammar of the changed captions, what forbids a change, and the store of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from features import Caption, ImageEntry, build_store, open_store
from features.errors import MismatchError, MissingInput, UsageError
from features.names import source_of_negative
from features.records import TextGraph
from models.evaluation import Negatives
from pipeline.commands.app import app
from pipeline.language import to_ud
from pipeline.negatives import KINDS, make, write_negatives
from pipeline.negatives.change import Scene
from pipeline.negatives.edits import Edit, align, apply
from pipeline.negatives.lexicon import confusable, inflected, noun_classes, table
from pipeline.negatives.making import _MAKERS
from pipeline.negatives.parsed import Parsed
from pipeline.parse import load_parser, parse


def all_changes(kind: str, caption: str, *others: str, counts: dict | None = None) -> set[str]:
    """Return the caption after every change of one kind, given the image's other captions."""
    graphs = parse([caption, *others])
    scene = Scene.of(graphs, counts or {})
    changes = [c for c in _MAKERS[kind](Parsed(graphs[0]), scene) if scene.facts.isdisjoint(c.new)]
    return {str(apply(caption, graphs[0].tokens, c.edits)) for c in changes}


# text and grammar


def test_alignment_refuses_other_tokens() -> None:
    assert align('A "dog" .', ["A", "``", "dog", "''", "."]) == [
        (0, 1),
        (2, 3),
        (3, 6),
        (6, 7),
        (8, 9),
    ]
    assert align("A dog.", ["A", "cat", "."]) is None
    assert align("A dog. More", ["A", "dog", "."]) is None
    assert apply("A dog.", ["A", "cat", "."], [Edit(1, 2, "pig")]) is None


@pytest.mark.parametrize(
    ("caption", "edits", "wanted"),
    [
        ("A dog eats a pear.", [Edit(4, 5, "apple")], "A dog eats an apple."),
        ("An old dog.", [Edit(1, 2, "young")], "A young dog."),
        ("An owl sits.", [Edit(0, 2, "the grass")], "The grass sits."),
        ("a owl sits.", [Edit(2, 3, "runs")], "a owl runs."),  # mistakes elsewhere stay
        ("Dogs run , now.", [Edit(1, 2, "sit")], "Dogs sit , now."),
        ("A dog.", [Edit(1, 2, "hour")], "An hour."),
        ("It is an orange uniform.", [Edit(3, 4, "blue")], "It is a blue uniform."),
    ],
)
def test_edits_keep_spaces_capitals_and_articles(caption, edits, wanted) -> None:
    tokens = caption.replace(".", " .").split()
    assert apply(caption, tokens, edits) == wanted


def test_subject_and_object_change_places() -> None:
    assert all_changes("swap", "A man pushes a horse.") == {"A horse pushes a man."}
    assert all_changes("swap", "An old man is pushing a brown horse .") == {
        "A brown horse is pushing an old man ."
    }


def test_verbs_agree_with_the_new_subject() -> None:
    assert all_changes("swap", "Two dogs chase a ball.") == {"A ball chases two dogs."}
    assert all_changes("swap", "A dog chases two balls.") == {"Two balls chase a dog."}
    assert all_changes("swap", "Two men are pushing a car.") == {"A car is pushing two men."}
    assert all_changes("swap", "A man was carrying two bags.") == {"Two bags were carrying a man."}


@pytest.mark.parametrize(
    "caption",
    [
        "A man stands next to a woman.",  # true both ways
        "A boy hugs a girl.",
        "A man chases a man.",
        "A dog has its ball.",
        "A man looks at the camera.",
        "A man and a woman ride a horse.",
        "A group of people ride a horse.",
        "Woman holding dog.",  # bare singulars cannot be moved
    ],
)
def test_no_exchange_where_it_would_be_true_or_broken(caption: str) -> None:
    assert all_changes("swap", caption) == set()


def test_attributes_change_places() -> None:
    assert all_changes("attribute-swap", "An orange cat watches a black dog.") == {
        "A black cat watches an orange dog."
    }
    assert all_changes("attribute-swap", "A small boy holds a large ball.") == {
        "A large boy holds a small ball."
    }
    assert all_changes("attribute-swap", "A red dog and a pink cat.") == set()  # much the same
    assert all_changes("attribute-swap", "A black dog and a white dog.") == set()
    assert all_changes("attribute-swap", "A black man in a white shirt.") == set()
    told = "The cat is black."
    assert all_changes("attribute-swap", "An orange cat watches a black dog.", told) == set()


def test_nouns_are_replaced_by_others_of_their_class() -> None:
    found = all_changes("noun", "Two dogs run .")
    assert "Two cats run ." in found
    assert "Two sheep run ." in found
    assert all(text.startswith("Two ") and text.endswith(" run .") for text in found)
    assert "An elephant runs." in all_changes("noun", "A dog runs.")
    assert all_changes("noun", "A man runs.") == {"A woman runs."}


def test_places_need_a_predicate_that_a_store_has_seen() -> None:
    caption = "A dog runs through the snow."
    places = {"A dog runs through the street.", "A dog runs through the forest."}
    assert places.isdisjoint(all_changes("noun", caption))
    seen = {("run through", "forest"): 3, ("run through", "street"): 2}
    assert places & all_changes("noun", caption, counts=seen) == {"A dog runs through the forest."}
    mass = {("run through", "water"): 9}
    assert "A dog runs through water." not in all_changes(
        "noun", "A dog runs through a field.", counts=mass
    )


@pytest.mark.parametrize(
    ("kind", "caption", "other", "absent"),
    [
        ("noun", "A dog runs.", "A dog and a cat.", "A cat runs."),
        ("noun", "A dog runs.", "Kittens play.", "A cat runs."),
        ("noun", "A man runs.", "Some people run.", "A woman runs."),
        ("noun", "A man rides his bike.", "", "A woman rides his bike."),
        ("attribute", "A man in a red shirt.", "He has a blue hat.", "A man in a blue shirt."),
        ("attribute", "A man in a red shirt.", "A striped shirt.", "A man in a green shirt."),
        ("number", "Two dogs run.", "Four animals run.", "Four dogs run."),
        ("number", "Two dogs run.", "A group of dogs.", "Five dogs run."),
        ("predicate", "A dog sits.", "A dog runs and jumps.", "A dog jumps."),
        ("predicate", "A dog runs.", "A dog is lying down.", "A dog lies."),
    ],
)
def test_a_word_of_another_caption_forbids_the_change(kind, caption, other, absent) -> None:
    others = [other] if other else []
    if others:
        assert absent in all_changes(kind, caption)
    assert absent not in all_changes(kind, caption, *others)


def test_colours_and_opposites() -> None:
    found = all_changes("attribute", "A man in a red shirt .")
    assert "A man in a green shirt ." in found
    assert not {"A man in an orange shirt .", "A man in a pink shirt ."} & found
    assert {t.split()[1] for t in all_changes("attribute", "A black dog .")} <= {"white", "brown"}
    assert all_changes("attribute", "A black and white dog .") == set()
    assert all_changes("attribute", "A young man .") == {"An elderly man .", "An old man ."}
    assert all_changes("attribute", "A young boy .") == set()
    assert all_changes("attribute", "A black man .") == set()


def test_numbers_only_grow() -> None:
    assert all_changes("number", "Three dogs run .") == {"Five dogs run .", "Six dogs run ."}
    assert all_changes("number", "A three year old boy .") == set()
    assert all_changes("number", "Two men play soccer .") == set()


def test_verbs_keep_their_form() -> None:
    assert "A dog is sleeping ." in all_changes("predicate", "A dog is running .")
    assert "Dogs sleep ." in all_changes("predicate", "Dogs run .")
    assert "A dog sleeps ." in all_changes("predicate", "A dog runs .")
    assert "A man kicked a box ." in all_changes("predicate", "A man held a box .")
    found = all_changes("predicate", "A boy rides a bike down a hill .")
    assert "A boy pushes a bike down a hill ." in found
    assert "A boy paints a bike down a hill ." not in found


def test_a_new_verb_takes_its_usual_preposition() -> None:
    counts = {("sit in", "grass"): 5, ("lie through", "grass"): 1}
    found = all_changes("predicate", "A dog runs through the grass .", counts=counts)
    assert "A dog sits in the grass ." in found
    assert "A dog lies through the grass ." in found
    assert not any("sleep" in text for text in found)
    between = "A boy jumps from one bed to another ."
    assert not any("lie" in text for text in all_changes("predicate", between, counts=counts))


def test_prepositions() -> None:
    assert "A dog sits behind a house ." in all_changes(
        "predicate", "A dog sits in front of a house ."
    )
    assert "A cat is under a bench ." in all_changes("predicate", "A cat is on a bench .")
    assert all_changes("predicate", "A cat is on a wall .") == set()


def test_the_lexicon_is_consistent() -> None:
    for kind in noun_classes().values():
        assert set(kind.words) == set(kind.targets)
        assert all(target in words for target, words in kind.words.items())
    verbs = {v for rule in table()["predicates"].values() for v in rule["to"].split()}
    assert verbs <= table()["verbs"].keys()
    assert all(len(forms.split()) == 4 for forms in table()["verbs"].values())
    assert all(len(confusable(verb)) > 1 for verb in verbs)
    assert inflected("carry", "VBZ") == "carries"
    for colour, near in table()["colours"].items():
        assert colour in near.split()


# making


CAPTIONS = (
    "A black dog chases a red ball .",
    "Two men ride horses on a beach .",
    "A little girl in a yellow dress sits on a bench .",
    "A man carries a surfboard .",
    "Three children play in a field .",
)


def parses(captions=CAPTIONS) -> list[TextGraph]:
    return [to_ud(graph) for graph in load_parser("spacy").parse(list(captions))]


def test_one_of_each_kind_and_none_a_caption() -> None:
    made = make(parses(), {}, seed="1")
    assert max(Counter((n.caption, n.kind) for n in made).values()) == 1
    assert {n.kind for n in made} >= {"swap", "noun", "attribute"}
    assert not {n.text for n in made} & set(CAPTIONS)
    assert made == make(parses(), {}, seed="1")
    assert made != make(parses(), {}, seed="2")
    assert {n.kind for n in make(parses(), {}, kinds=["swap"])} == {"swap"}


def test_captions_that_cannot_be_read_have_none() -> None:
    long = "A dog runs , " * 20 + "."
    assert make(parses(["", "Dog", long, "A dog runs . A cat sits ."]), {}) == []


# the store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    entries, texts = [], []
    for row in range(270):  # two shards
        some = [CAPTIONS[(row + at) % len(CAPTIONS)] for at in range(2)] if row % 7 else []
        captions = tuple(Caption(f"{row}.jpg#{at}", text) for at, text in enumerate(some))
        entries.append(
            ImageEntry(f"{row}.jpg", f"{row}.jpg", "val" if row % 2 else "train", captions)
        )
        texts += [next(iter(PARSED[text])) for text in some]
    return build_store(tmp_path / "source", "tiny", entries, texts=texts)


PARSED: dict[str, list[TextGraph]] = {}


@pytest.fixture(autouse=True, scope="module")
def _parse_once():
    for text, graph in zip(CAPTIONS, parse(CAPTIONS), strict=True):
        PARSED[text] = [graph]


def test_the_store_follows_its_source(source: Path, tmp_path: Path) -> None:
    report = write_negatives(source, tmp_path / "out")
    made, known = open_store(report.manifest), open_store(source)
    assert made.manifest["index"] == known.manifest["index"]
    assert made.column("image_id").tolist() == known.column("image_id").tolist()
    assert {k: v.tolist() for k, v in made.splits.items()} == {
        k: v.tolist() for k, v in known.splits.items()
    }
    names = made.column("caption_id").tolist()
    assert len(set(names)) == len(names) == sum(report.kinds.values())
    for row, name in enumerate(names):
        caption, kind = source_of_negative(name)
        assert kind in KINDS
        own = int(known.rows_of_captions([caption])[0])
        assert made.image_of_caption([row])[0] == known.image_of_caption([own])[0]
        assert made.column("caption")[row] != known.column("caption")[own]
    text = made.text(names[0])
    assert text.tokens == parse([made.column("caption")[0]])[0].tokens
    assert report.captions == len(known.column("caption_id"))
    assert report.covered == len({source_of_negative(name)[0] for name in names})


def test_negatives_of_captions_with_the_same_ids_are_others(source: Path, tmp_path: Path) -> None:
    opened = open_store(source)
    entries = [
        ImageEntry(name, name, "train", (Caption(f"{name}#0", CAPTIONS[row % 3]),))
        for row, name in enumerate(opened.column("image_id").tolist()[:70])
    ]
    made = []
    for number, turn in enumerate((0, 1)):  # the second has the captions of other images
        texts = [entries[(row + turn) % len(entries)].captions[0].text for row in range(70)]
        some = [
            dataclasses.replace(entry, captions=(Caption(entry.captions[0].id, text),))
            for entry, text in zip(entries, texts, strict=True)
        ]
        graphs = [PARSED[text][0] for text in texts]
        made.append(build_store(tmp_path / str(number), "tiny", some, texts=graphs))
    false = write_negatives(made[0], tmp_path / "false").manifest
    assert Negatives(str(false), open_store(made[0])).kinds
    with pytest.raises(MismatchError, match="made from other captions than those of"):
        Negatives(str(false), open_store(made[1]))


def test_the_result_has_a_content_key_and_resumes(
    source: Path, tmp_path: Path, monkeypatch
) -> None:
    whole = open_store(write_negatives(source, tmp_path / "whole").manifest)
    calls = []

    def stop_after_one(images: int) -> None:
        calls.append(images)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_negatives(source, tmp_path / "cut", progress=stop_after_one)
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut").rglob("*.h5")}
    assert len(first) == 3
    cut = open_store(write_negatives(source, tmp_path / "cut").manifest)
    assert (cut.key, cut.hash) == (whole.key, whole.hash)
    assert all(p.stat().st_mtime_ns == time for p, time in first.items())
    again = write_negatives(source, tmp_path / "cut", parser="spacy")
    assert again.manifest == cut.path
    assert open_store(write_negatives(source, tmp_path / "cut", seed=1).manifest).key != cut.key
    some = write_negatives(source, tmp_path / "cut", kinds=["noun"])
    assert set(some.kinds) == {"noun"}


def test_what_a_caption_says_already_is_no_negative(tmp_path: Path, monkeypatch) -> None:
    # The two captions say the same in other words, so no exchange between them may be kept.
    from pipeline.negatives import building
    from pipeline.negatives.making import Negative

    captions = ("A black dog chases a red ball .", "A red ball .")
    entry = ImageEntry(
        "1.jpg", "1.jpg", "val", tuple(Caption(str(at), text) for at, text in enumerate(captions))
    )
    source = build_store(tmp_path / "s", "s", [entry], texts=parse(captions))
    said = [
        Negative(1, "noun", "A dog chases a ball ."),
        Negative(1, "swap", "A ball chases a dog ."),
    ]
    monkeypatch.setattr(building, "make", lambda *args, **options: said)
    report = write_negatives(source, tmp_path / "out")
    assert dict(report.kinds) == {"swap": 1}


def test_command(source: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert app.call(["negatives", str(source), str(out), "--kinds", "swap", "noun"]) == 0
    printed = capsys.readouterr().out
    assert str(out / "tiny-negatives-") in printed
    assert "swap" in printed
    assert "predicate" not in printed


def test_refusals(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kind 'nouns'"):
        write_negatives(source, tmp_path / "out", kinds=["nouns"])
    with pytest.raises(UsageError, match="is the folder of the source"):
        write_negatives(source, source.parent)
    with pytest.raises(MissingInput, match="nowhere"):
        app.call(["negatives", str(tmp_path / "nowhere"), str(tmp_path / "out")])
    entry = ImageEntry("1.jpg", "1.jpg", "val", (Caption("1", "A dog ."),))
    bare = build_store(tmp_path / "bare", "bare", [entry])
    with pytest.raises(UsageError, match="no group 'tokens'"):
        write_negatives(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()
