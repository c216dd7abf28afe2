"""What notebooks show: drawings that are XML, with every text escaped."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from features import SceneGraph, TextGraph
from features.inline import table_html

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script>&amp;\x00\ud800'


def graph(**changes):
    boxes = np.array([[10, 20, 110, 120], [100, 40, 300, 200], [0, 0, 400, 300]], np.float32)
    made = SceneGraph(
        image_id="1.jpg",
        size=(400, 300),
        boxes=boxes,
        labels=("dog", "red ball", "scene"),
        scores=np.array([0.9, 0.6, 0.1], np.float32),
        relations=((0, "chases", 1), (0, "in", 2), (1, "near", 0)),
        relation_scores=np.array([0.8, 0.7, 0.05], np.float32),
        union_boxes=boxes,
        shown=0.5,
        relations_shown=0.1,
    )
    return dataclasses.replace(made, **changes)


def words(svg):
    return [one.text for one in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_graph_shows_what_is_sure_enough():
    svg = graph()._repr_svg_()
    # neither the object of score 0.1, nor the relation to it, nor that of score 0.05
    assert words(svg) == ["chases", "dog", "red ball"]
    frame, first, *_ = ET.fromstring(svg).iter(f"{SVG}rect")
    assert (frame.get("width"), frame.get("height")) == ("480", "360")
    assert (first.get("x"), first.get("width")) == ("12.0", "120.0")  # 400 pixels are 480 wide
    assert words(graph(shown=0.0, relations_shown=0.0)._repr_svg_())[:3] == ["chases", "in", "near"]


def test_a_graph_without_anything_to_show_is_a_drawing():
    assert words(graph(shown=1.0)._repr_svg_()) == []
    nothing = np.zeros((0, 4), np.float32)
    empty = graph(boxes=nothing, labels=(), scores=nothing[:, 0], relations=(), size=(0, 0),
                  relation_scores=nothing[:, 0], union_boxes=nothing)  # fmt: skip
    assert words(empty._repr_svg_()) == []


def test_a_caption_shows_its_tree_and_triplets():
    text = TextGraph(
        caption="A black dog runs .",
        tokens=("A", "black", "dog", "runs", "."),
        heads=(2, 2, 3, -1, 3),
        objects=("dog", "grass"),
        attributes=(("dog", "black"),),
        relations=((0, "run on", 1),),
    )
    svg = text._repr_svg_()
    assert words(svg) == ["A", "black", "dog", "runs", ".", "dog - run on - grass", "black dog"]
    arcs = [one for one in ET.fromstring(svg).iter(f"{SVG}path") if one.get("fill") == "none"]
    assert len(arcs) == 4  # no arc to the root
    assert ET.fromstring(TextGraph("")._repr_svg_()).tag == f"{SVG}svg"


@pytest.mark.parametrize("text", [HOSTILE, "</text><script>", "]]>"])
def test_texts_of_strangers_stay_texts(text):
    shown = [
        graph(labels=(text, "b", "c"), relations=((0, text, 1),) * 3)._repr_svg_(),
        TextGraph(text, tokens=(text,), heads=(-1,))._repr_svg_(),
        table_html(text, {text: text}),
    ]
    for page in shown:
        assert "<script" not in page
        assert {one.tag.removeprefix(SVG) for one in ET.fromstring(page).iter()} <= {
            "svg", "defs", "marker", "path", "rect", "line", "text",
            "table", "caption", "tbody", "tr", "th", "td",
        }  # fmt: skip
        page.encode()  # no half of a surrogate pair is left


def test_a_store_shows_its_splits(tiny_store):
    store = tiny_store()
    page = store._repr_html_()
    assert f"{len(store.captions)}</td>" in page
    for name in store.splits:
        assert f">{name}</th>" in page
