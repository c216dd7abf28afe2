"""Find images by captions and visual relations: lemmas, synonyms, attributes, filters, pages."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import features
from features.commands.app import app
from features.errors import UnknownName, UsageError
from features.finding import contact_sheet, find, lemmas, parse_query, same_word
from features.records import Caption, Detections, ImageEntry, TextGraph


def graph(text, objects, relations=(), attributes=()):
    """Return a text graph; attributes are (object row, attribute)."""
    return TextGraph(
        text,
        tokens=tuple(text.split()),
        lemmas=tuple(text.split()),
        upos=("X",) * len(text.split()),
        xpos=("X",) * len(text.split()),
        heads=(-1,) * len(text.split()),
        deprels=("root",) * len(text.split()),
        roles=("other",) * len(text.split()),
        objects=tuple(objects),
        object_positions=((0,),) * len(objects),
        attributes=tuple((objects[row], name) for row, name in attributes),
        attribute_objects=tuple(row for row, _ in attributes),
        attribute_positions=(0,) * len(attributes),
        relations=tuple(relations),
        relation_positions=((),) * len(relations),
    )


GRAPHS = {
    "a.jpg": [
        graph("A dog catches a frisbee", ["dog", "frisbee"], [(0, "catch", 1)], [(0, "brown")]),
        graph("The dogs jump", ["dog"]),
    ],
    "b.jpg": [
        graph(
            "A man in a light red shirt rides a bike",
            ["man", "shirt", "bike"],
            [(0, "wear", 1), (0, "ride", 2)],
            [(1, "light red"), (0, "old")],
        )
    ],
    "c.jpg": [
        graph(
            "A woman sits on a red <bench>",
            ["woman", "bench", "tennis racket"],
            [(0, "sit on", 1), (0, "hold", 2)],
            [(1, "red"), (2, "blue")],
        )
    ],
}
BOXES = np.float32([[1, 1, 20, 20], [10, 5, 35, 25], [0, 0, 40, 30]])
SEEN = {
    "a.jpg": Detections(
        BOXES[:2], ("dog", "frisbee"), np.float32([0.9, 0.4]), (40, 30),
        attributes=(("brown",), ()), relations=((0, "holding", 1),),
        relation_scores=np.float32([0.3]),
    ),
    "b.jpg": Detections(
        BOXES, ("person", "bicycle", "dog"), np.float32([0.8, 0.7, 0.2]), (40, 30),
        attributes=((), (), ()), relations=((0, "riding", 1), (2, "near", 1)),
        relation_scores=np.float32([0.8, 0.1]),
    ),
    "c.jpg": Detections(
        BOXES[:1], ("bench",), np.float32([0.5]), (40, 30),
        attributes=(("red",),), relations=(), relation_scores=np.float32([]),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    entries = [
        ImageEntry(
            name,
            name,
            "val" if name == "c.jpg" else "train",
            tuple(Caption(f"{name}#{k}", g.caption) for k, g in enumerate(graphs)),
        )
        for name, graphs in GRAPHS.items()
    ]
    texts = [graph for graphs in GRAPHS.values() for graph in graphs]
    path = features.build_store(folder, "x", entries, visual=[*SEEN.values()], texts=texts)
    return features.open_store(path)


def found(store, query, **options):
    matches = find(store, query, **options)
    return [
        (image[0], subject, predicate, thing)
        for image, subject, predicate, thing in zip(
            [store.images["id"][row] for row in matches.image],
            matches.subject_name,
            matches.predicate,
            matches.object_name,
            strict=True,
        )
    ]


def test_words_are_compared_by_lemma_and_synonym():
    pairs = ["rides riding", "rode ride", "men man", "boxes box", "babies baby", "sat sitting"]
    pairs += ["wolves wolf", "wearing wears", "grass grass", "people person", "ties tying"]
    for pair in pairs:
        assert same_word(*pair.split()), pair
    for pair in ("ride rid", "man woman", "bus bu", "ring r", "bed b", "bike bicycle"):
        assert not same_word(*pair.split()) or "rid" in lemmas("riding"), pair
    assert same_word("bikes", "bicycle", with_synonyms=True)


def test_triplets_of_captions_and_images(store):
    assert found(store, "dog - catch - frisbee") == [("a", "dog", "catch", "frisbee")]
    assert found(store, "dogs - caught - *") == [("a", "dog", "catch", "frisbee")]
    assert found(store, "* - ride - bicycle") == [
        ("b", "man", "ride", "bike"),
        ("b", "person", "riding", "bicycle"),
    ]
    assert found(store, "* - ride - bicycle", synonyms=False) == [
        ("b", "person", "riding", "bicycle")
    ]
    assert found(store, "woman - sit - *") == [("c", "woman", "sit on", "bench")]
    assert found(store, "woman - sit on - bench") == [("c", "woman", "sit on", "bench")]
    assert found(store, "woman - sit under - bench") == []
    assert found(store, "frisbee - catch - dog") == []
    assert found(store, "dog|woman - hold|catch") == [
        ("a", "dog", "catch", "frisbee"),
        ("a", "dog", "holding", "frisbee"),
        ("c", "woman", "hold", "tennis racket"),
    ]


def test_attributes(store):
    assert found(store, "red shirt") == [("b", "shirt", "", "")]
    assert found(store, "light shirt", sources=["captions"]) == [("b", "shirt", "", "")]
    assert found(store, "blue shirt") == []
    assert {one for one, *_ in found(store, "red bench")} == {"c"}
    assert found(store, "blue tennis racket") == [("c", "tennis racket", "", "")]
    assert found(store, "tennis racket") == [("c", "tennis racket", "", "")]
    assert found(store, "brown dog - * - *") == [
        ("a", "dog", "catch", "frisbee"),
        ("a", "dog", "holding", "frisbee"),
    ]
    assert found(store, "old man - wear - red shirt") == [("b", "man", "wear", "shirt")]
    assert found(store, "red man - wear - shirt") == []


def test_filters_and_order(store):
    assert {one for one, *_ in found(store, "dog")} == {"a", "b"}
    assert found(store, "dog")[0][0] == "a"  # two captions
    assert found(store, "dog", sources=["images"], min_score=0.5) == [("a", "dog", "", "")]
    assert found(store, "* - near - *", min_score=0.5) == []
    assert found(store, "dog", split="val") == []
    assert {one for one, *_ in found(store, "bench", split="val")} == {"c"}
    matches = find(store, "dog", sources=["images"])
    assert matches.image_ids() == ["a.jpg", "b.jpg"]
    table = features.find(store, "woman - sit - *").table()
    assert table.iloc[0].to_dict() == {
        "image": "c.jpg",
        "file": "c.jpg",
        "split": "val",
        "caption": "c.jpg#0",
        "text": "A woman sits on a red <bench>",
        "subject": "woman",
        "predicate": "sit on",
        "object": "bench",
        "score": 1.0,
        "subject_object": 0,
        "object_object": 1,
    }
    with pytest.raises(UnknownName):
        find(store, "dog", split="nowhere")
    with pytest.raises(UnknownName, match="source"):
        find(store, "dog", sources=["words"])


@pytest.mark.parametrize("query", ["", " ", "a - b - c - d", "dog -  - x", "*", "* - * - *"])
def test_queries_that_are_none(query):
    with pytest.raises(UsageError, match="query"):
        parse_query(query)


@pytest.mark.parametrize(
    "query", ["d*g", "dog| - x", "dog - | - x", "\u200b", "...", "dog - ! - x"]
)
def test_words_that_are_none(query):
    with pytest.raises(UsageError, match="query"):
        parse_query(query)


def test_hyphens_inside_words_and_other_dashes():
    assert parse_query("t-shirt").subject.alternatives == (("t-shirt",),)
    for dash in ("-", "->", "\u2192", "\u2014", "--"):
        assert parse_query(f"a {dash} b {dash} c").predicate.alternatives == (("b",),)


def test_a_page_holds_everything_it_shows(store, tmp_path):
    for name in GRAPHS:
        Image.new("RGB", (40, 30), (200, 40, 40)).save(tmp_path / name)
    page = contact_sheet(find(store, "* - ride|sit|near - *"), tmp_path)
    assert page.count("<figure>") == 2
    assert page.count("data:image/jpeg;base64,") == 2
    assert "<bench>" not in page
    assert "&lt;bench&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert '<rect class="subject" x="1" y="1" width="19" height="19"/>' in page  # the rider
    assert '<rect class="object likely" x="1"' in page  # the bench, from the caption
    assert contact_sheet(find(store, "unicorn")).count("<figure>") == 0
    without = contact_sheet(find(store, "dog"), None, count=1)
    assert without.count("<figure>") == 1
    assert "data:image" not in without


def test_words_that_nothing_in_the_store_has(store, capsys):
    app.call(["find", str(store.path), "zzqx dog - qwrt - frisbee"])
    said = capsys.readouterr()
    assert "0 images" in said.out
    assert "note: no caption or image of this store has 'zzqx', 'qwrt'" in said.err
    app.call(["find", str(store.path), "dog - catch - dog"])
    assert "note" not in capsys.readouterr().err


def test_the_command(store, tmp_path, capsys):
    where = str(store.path)
    app.call(["find", where, "dog - catch - frisbee"])
    out = capsys.readouterr().out
    assert "a.jpg" in out
    assert "A dog catches a frisbee" in out
    assert "1 images, 1 matches" in out
    app.call(["find", where, "dog", "--ids", "--in", "images"])
    assert capsys.readouterr().out.split() == ["a.jpg", "b.jpg"]
    app.call(["find", where, "dog - hold - *", "--json", "--min-score", "0.2"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["image"], row["predicate"], row["score"]) for row in rows] == [
        ("a.jpg", "holding", 0.3)
    ]
    page = tmp_path / "page.html"
    app.call(["find", where, "dog", "--html", str(page), "--top", "1"])
    assert page.read_text().count("<figure>") == 1
    assert capsys.readouterr().out.strip() == str(page)
    with pytest.raises(UsageError):
        app.call(["find", where, "dog", "--html", str(page), "--images-dir", str(tmp_path / "no")])
