"""What plug-ins may return: everything else is an error that names plug-in, image and value."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from features.errors import FeatureOverflow, InputError, PluginError, UnreadableInput
from features.records import Detections, ImageEntry, Skipped, TextGraph
from pipeline import boundary
from pipeline.boundary import Call
from pipeline.parse import run_parser
from pipeline.vision.graph_builder import GraphBuilder, GraphRules

BOX = [10.0, 10.0, 40.0, 30.0]
GOOD = Detections(
    np.array([BOX, [0, 0, 80, 60]], np.float32),
    ("man", "hat"),
    np.array([0.9, 0.5], np.float32),
    (80, 60),
)


def changed(**fields):
    return dataclasses.replace(GOOD, **fields)


def boxes(*first):
    return changed(boxes=np.array([first, BOX], np.float32))


class Plug:
    """A detector, relation predictor and feature extractor with results made for a test."""

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})

    def __init__(self, found=GOOD, relations=((), ()), features=None):
        self.found, self.related, self.features = found, relations, features

    def identity(self):
        return {"name": "mine", "version": 1}

    def covers(self, image_id):
        return True

    def detect(self, image):
        return self.found() if callable(self.found) else self.found

    def predict(self, found, limit):
        return self.related() if callable(self.related) else self.related

    def extract(self, image, found):
        if self.features is not None:
            return self.features() if callable(self.features) else self.features
        return np.ones((len(found.labels), 3), np.float32), np.ones(
            (len(found.relations), 3), np.float32
        )


def write_photo(folder):
    Image.new("RGB", (80, 60), "red").save(folder / "a.png")
    return ImageEntry("a.png", "a.png", "train")


@pytest.fixture
def entry(tmp_path):
    return write_photo(tmp_path)


def builder(tmp_path, plug):
    rules = GraphRules(max_objects=4, max_relations=2, whole_image="empty")
    return GraphBuilder(plug, plug, plug, rules, tmp_path)


nan, inf = float("nan"), float("inf")
DETECTIONS = {
    "none": (None, "None"),
    "a list": ([1], "list instead of Detections"),
    "nan box": (boxes(1, nan, 3, 4), r"boxes\[0, 1\] = nan"),
    "infinite box": (boxes(1, 2, inf, 4), r"boxes\[0, 2\] = inf"),
    "inverted box": (boxes(30, 10, 10, 20), "inverted or empty"),
    "empty box": (boxes(30, 10, 30, 20), "inverted or empty"),
    "box to the right": (boxes(90, 10, 99, 20), "outside the image of 80 x 60"),
    "box beyond": (boxes(10, 10, 99, 20), "outside the image"),
    "negative box": (boxes(-9, 10, 20, 20), "outside the image"),
    "flat boxes": (changed(boxes=np.ones(8, np.float32)), r"shape \(8,\)"),
    "text boxes": (changed(boxes=np.array([["a"] * 4] * 2)), "array of numbers"),
    "ragged boxes": (changed(boxes=[[1, 2], [3]]), "array of numbers"),
    "three boxes": (changed(boxes=np.array([BOX] * 3, np.float32)), "2 labels for 3"),
    "labels none": (changed(labels=None), "labels = None"),
    "label number": (changed(labels=("man", 3)), "not a string"),
    "label control": (changed(labels=("man", "a\tb")), "control character"),
    "one score": (changed(scores=np.ones(1, np.float32)), r"shape \(1,\) instead of \(2\)"),
    "score 7": (changed(scores=np.array([7, 0.1], np.float32)), r"scores\[0\] = 7"),
    "score -1": (changed(scores=np.array([0.1, -1], np.float32)), r"scores\[1\] = -1"),
    "nan score": (changed(scores=np.array([nan, 0.1], np.float32)), r"scores\[0\] = nan"),
    "other size": (changed(size=(90, 60)), "for an image of 80 x 60"),
    "no size": (changed(size=None), "size = None"),
    "features for one": (changed(features=np.ones((1, 3), np.float32)), r"features of shape"),
    "nan features": (changed(features=np.full((2, 3), nan, np.float32)), r"features\[0, 0\]"),
    "attributes of one": (changed(attributes=(("red",),)), "1 lists of attributes"),
    "relation to row 9": (changed(relations=((0, "on", 9),)), "there are 2 objects"),
    "relation to itself": (changed(relations=((0, "on", 0),)), "with itself"),
}


@pytest.mark.parametrize("case", DETECTIONS)
def test_detections_are_checked(tmp_path, entry, case):
    found, words = DETECTIONS[case]
    made = builder(tmp_path, Plug(found))
    with pytest.raises(PluginError, match=words) as caught:
        made.build(entry)
    assert "a.png: the detector 'mine' returned" in str(caught.value)
    failed = {}
    graphs, objects, _ = made.build_all([entry], "skip", failed=failed)
    assert isinstance(graphs[0], Skipped)
    assert objects[0].shape == (0, 0)
    assert failed == {"a.png": str(caught.value)}


RELATIONS = {
    "none": (None, "None"),
    "no scores": ((((0, "on", 1),), None), "no scores"),
    "nan": ((((0, "on", 1),), [nan]), r"relation scores\[0\] = nan"),
    "score 2": ((((0, "on", 1),), [2.0]), "outside"),
    "two scores": ((((0, "on", 1),), [0.5, 0.5]), r"instead of \(1\)"),
    "row 2": ((((0, "on", 2),), [0.5]), "there are 2 objects"),
    "row -1": ((((-1, "on", 1),), [0.5]), "there are 2 objects"),
    "row 0.5": ((((0.5, "on", 1),), [0.5]), "there are 2 objects"),
    "pair": ((((0, 1),), [0.5]), "not .subject, predicate, object"),
    "predicate": ((((0, 7, 1),), [0.5]), "not a string"),
    "itself": ((((1, "on", 1),), [0.5]), "with itself"),
    "three": ((((0, "on", 1),) * 3, [0.5] * 3), "at most 2"),
}


@pytest.mark.parametrize("case", RELATIONS)
def test_relations_are_checked(tmp_path, entry, case):
    result, words = RELATIONS[case]
    with pytest.raises(PluginError, match=words) as caught:
        builder(tmp_path, Plug(relations=result)).build(entry)
    assert "a.png: the relation predictor 'mine' returned" in str(caught.value)


FEATURES = {
    "none": (lambda: None, "None"),
    "three rows": (lambda: (np.ones((3, 4)), np.ones((0, 4))), r"shape \(3, 4\) instead of \(2"),
    "union rows": (lambda: (np.ones((2, 4)), np.ones((1, 4))), "union features of shape"),
    "nan": (lambda: (np.full((2, 4), nan), np.ones((0, 4))), r"object features\[0, 0\] = nan"),
    "vector": (lambda: (np.ones(2), np.ones((0, 4))), "object features of shape"),
}


@pytest.mark.parametrize("case", FEATURES)
def test_features_are_checked(tmp_path, entry, case):
    result, words = FEATURES[case]
    with pytest.raises(PluginError, match=words) as caught:
        builder(tmp_path, Plug(features=result)).build(entry)
    assert "a.png: the feature extractor 'mine' returned" in str(caught.value)


def test_a_feature_too_large_for_float16_names_the_image_and_is_skipped(tmp_path, entry):
    made = builder(tmp_path, Plug(features=(np.full((2, 4), 1e5), np.ones((0, 4)))))
    with pytest.raises(FeatureOverflow, match=r"image a\.png, object features of 'mine'.*100000"):
        made.build(entry)
    assert isinstance(made.build_all([entry], "skip")[0][0], Skipped)


@pytest.mark.parametrize("step", ["found", "relations", "features"])
def test_errors_of_plugins_name_them_and_errors_of_the_system_pass(tmp_path, entry, step):
    def fail():
        raise error

    made = builder(tmp_path, Plug(**{step: fail}))
    error = ZeroDivisionError("by zero")
    with pytest.raises(PluginError, match=r"a\.png: the .* 'mine' failed: ZeroDivisionError"):
        made.build(entry)
    error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        made.build_all([entry], "skip")
    error = MemoryError()
    with pytest.raises(UnreadableInput, match=r"a\.png: out of memory"):
        made.build_all([entry], "skip")


def test_good_results_pass_unchanged(tmp_path, entry):
    slack = changed(boxes=np.array([[-0.5, 0, 80.9, 60], BOX], np.float32))
    graph = builder(tmp_path, Plug(slack, (((0, "on", 1),), [1.0]))).build(entry)
    assert graph.found.boxes.tolist() == [[0, 0, 80, 60], BOX]
    assert graph.found.relations == ((0, "on", 1),)
    empty = changed(boxes=np.zeros(0), labels=(), scores=[])
    assert builder(tmp_path, Plug(empty)).build(entry).found.labels == ("scene",)


def test_boxes_of_a_file_are_clipped_and_counted():
    call = Call("detector", "bottom-up", "a.png", file=True)
    given = changed(
        boxes=np.array([[-5, 0, 20, 20], [90, 0, 99, 9]], np.float32), relations=((0, "on", 1),)
    )
    found = boundary.checked_detections(call, given, (80, 60))
    assert found.boxes.tolist() == [[0, 0, 20, 20]]
    assert found.labels == ("man",)
    assert found.relations == ()
    assert call.counts["boxes clipped to the image"] == 2
    assert call.counts["boxes dropped: no area within the image"] == 1
    with pytest.raises(InputError, match=r"a\.png: the detections file has boxes\[0, 0\] = nan"):
        boundary.checked_detections(call, boxes(nan, 0, 1, 1), (80, 60))


def graph_of(caption, heads=None, **fields):
    words = tuple(caption.split())
    heads = (-1, *(0 for _ in words))[: len(words)] if heads is None else heads
    plain = ("x",) * len(words)
    made = TextGraph(caption, words, words, plain, plain, heads, plain)
    return dataclasses.replace(made, **fields)


class Parser:
    name, version = "mine", "1"

    def __init__(self, answer):
        self.answer = answer

    def parse(self, captions):
        return [self.answer(c) if c.startswith("bad") else graph_of(c) for c in captions]


def fail(caption):
    raise KeyError(caption)


PARSES = {
    "none": (lambda c: None, "None instead of a TextGraph"),
    "another": (lambda c: graph_of("a dog"), "graph of another caption"),
    "lemmas": (lambda c: graph_of(c, lemmas=("x",)), "1 lemmas for 3"),
    "head": (lambda c: graph_of(c, (-1, 0, 3)), "head 3 for token 2 of 3"),
    "own head": (lambda c: graph_of(c, (-1, 1, 0)), "head 1 for token 1"),
    "circle": (lambda c: graph_of(c, (-1, 2, 1)), "circle"),
    "float head": (lambda c: graph_of(c, (-1, 0.0, 0)), "head 0.0"),
    "token": (lambda c: graph_of(c, tokens=("a", None, "c")), "not a string"),
    "raises": (fail, "failed: KeyError"),
}


@pytest.mark.parametrize("case", PARSES)
def test_parses_are_checked_and_the_caption_is_named(case):
    answer, words = PARSES[case]
    captions = ["a dog", "a cat", "bad red hat", "a tree"]
    with pytest.raises(PluginError, match=words) as caught:
        run_parser(Parser(answer), captions)
    assert "bad red hat" in str(caught.value) or case == "raises"
    assert "'mine'" in str(caught.value)


def test_a_parser_must_return_one_graph_a_caption():
    parser = Parser(graph_of)
    parser.parse = lambda captions: [graph_of(c) for c in captions[:-1]]
    with pytest.raises(PluginError, match="instead of a list of one TextGraph a caption"):
        run_parser(parser, ["a dog", "a cat"])
    assert [g.caption for g in run_parser(Parser(graph_of), ["a dog", ""])] == ["a dog", ""]
