"""Drawings: the choice of objects, the place of words, complete and reproducible files."""

import dataclasses
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from features.drawing import (
    arcs_svg,
    draw_graph,
    draw_image,
    end_points,
    facts,
    strongest,
    whole_image,
)
from features.errors import ImageError, UnknownName, UsageError, WriteError
from features.records import Detections, TextGraph


@pytest.fixture
def crowd():
    """36 objects, 25 relations."""
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 400, (36, 2))
    boxes = np.concatenate([low, low + draw.uniform(20, 90, (36, 2))], 1).astype(np.float32)
    pairs = [(int(a), int(b)) for a, b in draw.integers(0, 36, (60, 2)) if a != b][:25]
    return Detections(
        boxes,
        tuple(f"label {row % 5}" for row in range(36)),
        np.linspace(1, 0.5, 36).astype(np.float32),
        (500, 500),
        relations=tuple((a, "near", b) for a, b in pairs),
        relation_scores=np.ones(25, np.float32),
    )


CAPTION = TextGraph("A man rides a horse.", objects=("man", "horse"), relations=((0, "ride", 1),))


def test_the_best_relations_and_objects_within_the_limits_are_drawn(crowd):
    chosen = strongest(crowd, max_objects=10, max_relations=4)
    assert len(chosen.objects) == len(set(chosen.objects)) == 10
    assert len(chosen.relations) == 4
    for at in chosen.relations:
        s, _, o = crowd.relations[at]
        assert {s, o} <= set(chosen.objects)
    assert chosen.relations == tuple(sorted(chosen.relations))  # best first
    assert chosen.relations[0] == 0


def test_coinciding_low_scored_and_image_sized_boxes_are_left_out():
    boxes = np.array(
        [[0, 0, 50, 50], [1, 0, 50, 50], [60, 60, 90, 90], [0, 0, 100, 100], [5, 70, 30, 99]],
        np.float32,
    )
    scores = np.array([0.9, 0.8, 0.1, 0.7, 0.6], np.float32)
    found = Detections(boxes, ("a", "b", "c", "scene", "d"), scores, (100, 100))
    assert strongest(found).objects == (0, 4)
    related = dataclasses.replace(found, relations=((4, "in", 3), (3, "around", 4), (0, "is", 1)))
    assert strongest(related).objects == (4, 3, 0, 1)  # related boxes may overlap
    assert strongest(related).relations == (0, 2)  # one per pair


def test_what_fills_the_image_is_named_not_drawn():
    boxes = np.array([[0, 0, 50, 50], *[[0, 0, 100, 100]] * 5], np.float32)
    labels = ("dog", "grass", "water", "grass", "fog", "scene")
    scores = np.array([0.9, 0.6, 0.8, 0.7, 0.4, 0], np.float32)
    found = Detections(boxes, labels, scores, (100, 100), shown=0.5)
    chosen = strongest(found)
    assert chosen.objects == (0,)
    assert chosen.everywhere == (2, 3)  # best first, each label once, none that is doubtful
    assert whole_image(found, chosen) == "in the whole image: water 0.80, grass 0.70"
    related = dataclasses.replace(found, relations=((0, "on", 1),))
    assert strongest(related).objects == (0, 1)  # drawn for a relation, and not named again
    assert strongest(related).everywhere == (2,)
    gold = dataclasses.replace(found, labels=("dog", *"abcde"), scores=np.ones(6, np.float32))
    assert whole_image(gold, strongest(gold)) == "in the whole image: a, b, c, d, e"
    assert whole_image(found.first(1), strongest(found.first(1))) == ""


def test_arcs_have_levels_and_words_their_order():
    graph = TextGraph(
        "a b <c> d e f", tokens=("a", "b", "<c>", "d", "e", "f"), xpos=("X",) * 6,
        heads=(2, 2, -1, 2, 5, 3), deprels=("x",) * 6,
    )  # fmt: skip
    drawn = ET.fromstring(arcs_svg(graph, ["", "", 'tabindex="0"', "", "", ""]))
    names = [one for one in drawn.iter() if one.get("class") == "dep"]
    assert len(names) == 5
    assert len({one.get("y") for one in names}) == 2
    forms = [one for one in drawn.iter() if one.get("class") == "form"]
    assert [one.text for one in forms] == list(graph.tokens)
    assert [float(one.get("x")) for one in forms] == sorted(float(one.get("x")) for one in forms)
    assert [one.get("tabindex") for one in drawn.iter("g")] == [None, None, "0", None, None, None]
    assert (drawn.get("role"), ET.fromstring(arcs_svg(graph)).get("role")) == ("group", "img")


def test_nothing_below_the_stated_confidence_is_drawn(crowd):
    sure = dataclasses.replace(
        crowd,
        shown=0.8,
        relations_shown=0.6,
        relation_scores=np.linspace(1, 0.2, 25).astype(np.float32),
    )
    chosen = strongest(sure, max_objects=36, max_relations=25)
    assert chosen.objects
    assert all(crowd.scores[row] >= 0.8 for row in chosen.objects)
    assert all(sure.relation_scores[at] >= 0.6 for at in chosen.relations)
    nothing = dataclasses.replace(sure, scores=np.full(36, 0.7, np.float32))
    assert strongest(nothing).objects == ()


def test_png_and_svg(crowd, tmp_path):
    pixels = np.full((500, 500, 3), 90, np.uint8)
    png = draw_graph(pixels, crowd, tmp_path / "new" / "a.png", [CAPTION])
    with Image.open(png) as image:
        image.load()
        assert image.width > image.height > 500  # captions are beside the image
    with Image.open(draw_graph(pixels, crowd, tmp_path / "b.png")) as plain:
        assert plain.width == pytest.approx(plain.height, abs=2)
    svg = draw_graph(pixels, crowd, tmp_path / "a.svg", [CAPTION])
    assert ET.parse(svg).getroot().tag.endswith("svg")


def test_the_same_graph_gives_the_same_file(crowd, tmp_path):
    for ending in ("png", "svg"):
        first = draw_graph(None, crowd, tmp_path / f"1.{ending}", [CAPTION]).read_bytes()
        second = draw_graph(None, crowd, tmp_path / f"2.{ending}", [CAPTION]).read_bytes()
        assert first == second


def test_a_box_is_drawn_at_its_pixels(tmp_path):
    """The frame of a box is coloured, its inside shows the image."""
    found = Detections(
        np.array([[20, 40, 80, 90]], np.float32), ("x",), np.ones(1, np.float32), (100, 100)
    )
    pixels = np.full((100, 100, 3), 128, np.uint8)
    image = np.asarray(Image.open(draw_graph(pixels, found, tmp_path / "a.png")).convert("RGB"))
    scale = image.shape[0] / 100
    at = image[int(65 * scale), :, :].astype(int)
    changed = np.flatnonzero(np.abs(at - 128).sum(1) > 60) / scale
    assert changed.min() == pytest.approx(20, abs=1)
    assert changed.max() == pytest.approx(80, abs=1)
    assert (np.abs(at[int(50 * scale)] - 128) < 3).all()


def test_words_do_not_hide_each_other(crowd):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from features.drawing.lettering import Word, place_words, shared_area

    figure = Figure(figsize=(5, 5))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 100)
    axes.set_ylim(100, 0)
    words = [Word(f"word {at}", "#000000", [(50.0, 50.0)], solid=True) for at in range(8)]
    place_words(axes, words, (100, 100))
    boxes = [text.get_window_extent().extents for text in axes.texts]
    for row, box in enumerate(boxes):
        assert box.min() >= 0
        assert box.max() <= 500
        assert all(shared_area(box, other) == 0 for other in boxes[:row])


def test_an_empty_graph_and_a_tiny_image_can_be_drawn(tmp_path):
    none = Detections(np.zeros((0, 4), np.float32), (), np.zeros(0, np.float32), (1, 1))
    assert draw_graph(np.zeros((1, 1, 3), np.uint8), none, tmp_path / "a.png").is_file()
    long = dataclasses.replace(none, size=(20000, 10))
    assert draw_graph(None, long, tmp_path / "b.png", [TextGraph("")] * 40).is_file()


def test_wrong_endings_and_unwritable_files_are_errors(crowd, tmp_path):
    with pytest.raises(UsageError, match=r"\.svg"):
        draw_graph(None, crowd, tmp_path / "a.jpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        draw_graph(None, crowd, tmp_path / "file" / "a.png")


def test_draw_image_of_a_store(tiny_store, tmp_path):
    store = tiny_store()
    name = str(store.images["id"].iloc[0])
    out = draw_image(store, name, tmp_path / "a.png")
    with Image.open(out) as image:
        assert image.width > 100
    with pytest.raises(UnknownName):
        draw_image(store, "nobody.jpg", tmp_path / "b.png")
    with pytest.raises(ImageError, match="images-dir"):
        draw_image(store, name, tmp_path / "b.png", tmp_path)
    Image.new("RGB", store.graph(name).size).save(tmp_path / store.images["file"].iloc[0])
    assert draw_image(store, name, tmp_path / "b.png", tmp_path).is_file()


def test_relations_with_the_same_words_are_drawn_once_and_counted(crowd):
    labels = tuple("dog" if row % 2 else "man" for row in range(36))
    same = dataclasses.replace(
        crowd,
        labels=labels,
        relations=tuple((row, "near", row + 1) for row in range(0, 16, 2)),
        relation_scores=np.linspace(0.9, 0.2, 8).astype(np.float32),
        relations_shown=0.35,
    )
    (fact,) = facts(same)
    assert (fact.subject, fact.predicate, fact.object) == ("man", "near", "dog")
    assert fact.count == sum(same.relation_scores >= 0.35) == 6
    assert (fact.row, fact.times) == (0, "6 × ")
    assert fact.score == pytest.approx(0.9)
    assert strongest(same).relations == (0,)


def test_arrows_end_on_the_sides_that_face_each_other_and_are_spread():
    boxes = np.array(
        [[0, 0, 20, 100], [60, 0, 80, 20], [60, 40, 80, 60], [60, 80, 80, 100], [5, 40, 15, 60]],
        np.float32,
    )
    routes = end_points(boxes, [(0, 3), (0, 1), (2, 0)])
    starts = [routes[1][0], routes[2][1], routes[0][0]]
    assert starts == [(20, 25), (20, 50), (20, 75)]  # in the order of what they lead to
    assert routes[0][1][0] == routes[1][1][0] == routes[2][0][0] == 60
    (inner, outer), (back, again) = end_points(boxes, [(4, 0), (0, 4)])
    assert 5 <= inner[0] <= 15
    assert inner[1] in (40, 60)
    assert outer[1] in (20, 80)  # in the middle of the gap above or below
    assert (back[1], again[1]) == (outer[1], inner[1])


def test_all_captions_are_written_while_there_is_room(crowd, tmp_path):
    relations = tuple((0, f"see {n}", 1) for n in range(9))
    said = [dataclasses.replace(CAPTION, caption=f"Caption number {n}.") for n in range(5)]
    wordy = [dataclasses.replace(one, relations=relations) for one in said]
    wide = dataclasses.replace(crowd, size=(2000, 300))
    for captions in (said, wordy):
        text = draw_graph(None, wide, tmp_path / "a.svg", captions).read_text()
        assert all(f"<!-- Caption number {n}. -->" in text for n in range(5))
    assert "see" not in text.rpartition("<!-- Caption number 4. -->")[2]  # triplets give way
    assert re.search("<!-- triplets of [45] captions not shown -->", text)
    many = draw_graph(None, wide, tmp_path / "b.svg", said * 30).read_text()
    assert "more captions" in many


def test_scores_are_written_unless_all_are_one(crowd, tmp_path):
    written = r"<!-- label \d( \d)?{} -->"
    found = draw_graph(None, crowd, tmp_path / "a.svg").read_text()
    assert re.search(written.format(r" [01]\.\d\d"), found)
    assert re.search("near -->", found)  # all relations of the fixture are certain
    gold = dataclasses.replace(crowd, scores=np.ones(36, np.float32))
    assert re.search(written.format(""), draw_graph(None, gold, tmp_path / "b.svg").read_text())
