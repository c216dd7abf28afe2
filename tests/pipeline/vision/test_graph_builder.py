"""Graphs and features of images: rules, extractors, skipped images."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from features.errors import InputError, UnknownName, UsageError
from features.records import Detections, ImageEntry, Skipped, union_boxes
from pipeline.detect import create_detector
from pipeline.vision.boxes import iou_matrix
from pipeline.vision.detectors.nanodet import FEATURE_DIM
from pipeline.vision.extraction import (
    create_extractor,
    resolve_features,
)
from pipeline.vision.graph_builder import (
    WHOLE_IMAGE,
    GraphBuilder,
    GraphRules,
    apply_rules,
    rules_for,
)
from pipeline.vision.images import LazyImage
from pipeline.vision.relations import create_relations


def found_of(n, seed=0, features=False):
    draw = np.random.default_rng(seed)
    low = draw.uniform(0, 80, (n, 2))
    boxes = np.concatenate([low, low + draw.uniform(1, 20, (n, 2))], 1).astype(np.float32)
    return Detections(
        boxes,
        tuple(draw.choice(["man", "hat", "dog"], n).tolist()),
        np.sort(draw.uniform(0, 1, n).astype(np.float32))[::-1],
        (100, 100),
        features=draw.normal(size=(n, 4)).astype(np.float32) if features else None,
    )


@given(
    st.integers(0, 40),
    st.integers(1, 20),
    st.sampled_from(["always", "empty"]),
    st.sampled_from([1.0, 0.5]),
    st.floats(0, 1),
)
def test_rules(n, limit, whole, iou, least):
    found = found_of(n, seed=n, features=True)
    rules = GraphRules(max_objects=limit, whole_image=whole, cross_class_iou=iou, min_score=least)
    chosen = apply_rules(found, rules)
    count = len(chosen.labels)
    assert 1 <= count <= limit  # never empty
    assert len(chosen.boxes) == len(chosen.scores) == len(chosen.features) == count
    has_whole = chosen.labels[-1] == WHOLE_IMAGE
    assert has_whole == (whole == "always" or (count == 1 and not (found.scores >= least).any()))
    if has_whole:
        np.testing.assert_array_equal(chosen.boxes[-1], [0, 0, 100, 100])
        assert chosen.scores[-1] == 0
    real = count - has_whole
    assert (chosen.scores[:real] >= least).all()
    assert (np.diff(chosen.scores) <= 0).all()
    overlaps = iou_matrix(chosen.boxes[:real], chosen.boxes[:real]) - np.eye(real)
    assert real == 0 or overlaps.max() <= iou + 1e-6


def test_rules_are_part_of_the_key():
    first = GraphRules()
    for name, value in {
        "max_objects": 10,
        "max_relations": 3,
        "min_score": 0.1,
        "cross_class_iou": 0.5,
        "whole_image": "always",
    }.items():
        assert dataclasses.replace(first, **{name: value}).identity() != first.identity()
    json.dumps(first.identity())
    for wrong in ({"max_objects": 0}, {"min_score": 2.0}, {"whole_image": "never"}):
        with pytest.raises(UsageError):
            GraphRules(**wrong)


def test_default_rules_keep_precomputed_boxes(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps({"1.jpg": {"labels": [], "bbox": [], "rels": []}}))
    assert rules_for(create_detector("scene-graphs", path=tmp_path / "g.json")) == GraphRules()
    assert rules_for(create_detector("nanodet")).whole_image == "always"


@pytest.fixture
def shard(tmp_path):
    """Three images, the second damaged."""
    draw = np.random.default_rng(0)
    for name in ("a.jpg", "c.png"):
        Image.fromarray(draw.integers(0, 255, (60, 90, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"broken")
    return tmp_path, [ImageEntry(name, name, "train") for name in ("a.jpg", "b.jpg", "c.png")]


def run(
    entries, folder, detector, *, features="auto", relations="geometric", on_error="skip", **rules
):
    name = resolve_features(features, detector, has_pixels=folder is not None)
    builder = GraphBuilder(
        detector,
        create_relations(relations),
        create_extractor(name, detector),
        rules_for(detector, **rules),
        folder,
    )
    return builder.build_all(entries, on_error)


def test_damaged_images_are_skipped(shard):
    folder, entries = shard
    detector = create_detector("nanodet")
    graphs, objects, unions = run(entries, folder, detector, max_objects=5, max_relations=4)
    assert len(graphs) == len(objects) == len(unions) == 3
    assert isinstance(graphs[1], Skipped)
    assert "b.jpg" in graphs[1].reason
    assert objects[1].shape == unions[1].shape == (0, 0)
    for row in (0, 2):
        graph = graphs[row]
        assert graph.size == (90, 60)
        assert 1 <= len(graph.labels) <= 5
        assert objects[row].shape == (len(graph.labels), FEATURE_DIM)
        assert unions[row].shape == (len(graph.relations), FEATURE_DIM)
        ends = [row for s, _, o in graph.relations for row in (s, o)]
        assert len(graph.labels) - 1 not in ends  # the whole image has no relations
    with pytest.raises(InputError, match=r"b\.jpg"):
        run(entries, folder, detector, on_error="fail")
    with pytest.raises(UsageError, match="on-error"):
        run(entries, folder, detector, on_error="ignore")


GRAPHS = {
    "a.jpg": {
        "labels": ["man", "hat", "dog"],
        "bbox": [[1.0, 2.0, 40.0, 59.0], [5.0, 2.0, 30.0, 15.0], [50.0, 30.0, 80.0, 55.5]],
        "rels": [["man:0", "wearing", "hat:1"], ["dog:2", "near", "man:0"]],
    },
    "c.png": {"labels": [], "bbox": [], "rels": []},
}


@pytest.fixture
def graphs_file(tmp_path):
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(GRAPHS))
    return create_detector("scene-graphs", path=path)


def test_precomputed_graphs_without_image_files(shard, graphs_file):
    _, entries = shard
    assert resolve_features("auto", graphs_file, has_pixels=False) == "label"
    graphs, objects, unions = run(entries, None, graphs_file, relations="precomputed")
    assert graphs[0].relations == ((0, "wearing", 1), (2, "near", 0))
    assert graphs[0].size == (80, 59)  # the extent of the boxes
    assert "does not have this image" in graphs[1].reason
    assert graphs[2].labels == (WHOLE_IMAGE,)
    assert graphs[2].size == (1, 1)
    assert objects[0].shape == (3, 384)
    assert unions[0].shape == (2, 384)
    assert np.linalg.norm(objects[0][0] - objects[0][1]) > 0.1  # man and hat differ


def test_precomputed_graphs_have_the_size_of_the_image_files(shard, graphs_file):
    folder, entries = shard
    graphs, _, _ = run(entries, folder, graphs_file, features="none")
    assert graphs[0].size == graphs[2].size == (90, 60)


def test_features_of_any_boxes_come_from_the_pixels(shard, graphs_file):
    folder, entries = shard
    assert resolve_features("auto", graphs_file) == "nanodet"
    _, objects, unions = run(entries[:1], folder, graphs_file, relations="precomputed")
    from pipeline.vision.detectors.nanodet import nanodet_features
    from pipeline.vision.images import read_image

    boxes = np.array(GRAPHS["a.jpg"]["bbox"], np.float32)
    image = LazyImage.from_pixels("a.jpg", read_image(folder / "a.jpg"))
    np.testing.assert_allclose(objects[0], nanodet_features(image, boxes), atol=1e-4)
    both = union_boxes(boxes, [(0, 1), (2, 0)])
    np.testing.assert_array_equal(both, [[1, 2, 40, 59], [1, 2, 80, 59]])
    np.testing.assert_allclose(unions[0], nanodet_features(image, both), atol=1e-4)


def test_label_features_are_word_vectors(graphs_file):
    from features.vocab.vectors import load_vectors

    words = load_vectors()
    found = dataclasses.replace(
        found_of(2), labels=("fire hydrant", "dog"), relations=((1, "near", 0),)
    )
    objects, unions = create_extractor("label", graphs_file).extract(LazyImage("x"), found)
    np.testing.assert_array_equal(objects[0], words.phrase("fire hydrant"))
    np.testing.assert_array_equal(unions[0], words.phrase("dog near fire hydrant"))


class OwnFeatures:
    """A detector that provides features."""

    needs_pixels = False
    provides = frozenset({"labels", "features", "size"})

    def identity(self):
        return {"name": "bringing"}

    def covers(self, image_id):
        return True

    def detect(self, image):
        found = found_of(20, features=True)
        return found if image.image_id != "c.png" else dataclasses.replace(found, features=None)


def test_the_detectors_own_features(shard):
    _, entries = shard
    detector = OwnFeatures()
    assert resolve_features("auto", detector) == "detector"
    assert not create_extractor("detector", detector).needs_pixels
    graphs, objects, unions = run(entries, None, detector)
    np.testing.assert_array_equal(objects[0], found_of(20, features=True).features)
    s, _, o = graphs[0].relations[0]
    np.testing.assert_allclose(unions[0][0], (objects[0][s] + objects[0][o]) / 2)
    assert "provides no features" in graphs[2].reason


def test_names_of_extractors(graphs_file):
    nanodet = create_detector("nanodet")
    assert resolve_features("auto", nanodet) == "detector"
    assert create_extractor("detector", nanodet).needs_pixels
    assert resolve_features("auto", nanodet, has_pixels=False) == "label"
    with pytest.raises(UsageError, match="provides features"):
        resolve_features("detector", graphs_file)
    with pytest.raises(UnknownName, match="nanodet"):
        resolve_features("resnet", graphs_file)
    graphs = create_extractor("none", graphs_file).extract(LazyImage("x"), found_of(3))
    assert [part.shape for part in graphs] == [(3, 0), (0, 0)]


def test_detector_and_extractor_agree(shard):
    """``detector`` with nanodet and ``nanodet`` pool the same maps."""
    folder, entries = shard
    detector = create_detector("nanodet")
    _, own, own_unions = run(entries[:1], folder, detector, features="detector")
    _, other, other_unions = run(entries[:1], folder, detector, features="nanodet")
    np.testing.assert_array_equal(own[0], other[0])
    np.testing.assert_array_equal(own_unions[0], other_unions[0])


def test_a_shard_has_one_width(shard):
    _, entries = shard

    class Odd(OwnFeatures):
        def detect(self, image):
            found = found_of(3, features=True)
            wide = image.image_id == "a.jpg"
            return dataclasses.replace(found, features=found.features[:, :2]) if wide else found

    with pytest.raises(InputError, match="different widths"):
        _ = run(entries, None, Odd()).width


@pytest.mark.parametrize("features", ["nanodet", "efficientnet-lite0-colours", "label", "none"])
def test_the_width_is_known_without_an_image(shard, features):
    """A shard whose images are all skipped has features of the same width as the others."""
    folder, entries = shard
    detector = create_detector("nanodet")
    builder = GraphBuilder(
        detector,
        create_relations("geometric"),
        create_extractor(features, detector),
        rules_for(detector),
        folder,
    )
    assert builder.feature_width == builder.build(entries[0]).object_features.shape[1]


def test_the_width_of_a_detector_with_features():
    detector = OwnFeatures()
    extractor = create_extractor("detector", detector)
    rules = rules_for(detector)
    builder = GraphBuilder(detector, create_relations("geometric"), extractor, rules)
    assert builder.feature_width == 4
