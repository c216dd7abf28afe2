"""Precomputed detections: each file format as a detector."""

import base64
import json

import numpy as np
import pytest

from features.errors import MissingInput, UnknownName, UsageError
from features.records import ImageEntry
from pipeline.detect import create_detector
from pipeline.vision.extraction import create_extractor, resolve_features
from pipeline.vision.graph_builder import GraphBuilder, rules_for
from pipeline.vision.images import LazyImage
from pipeline.vision.relations import create_relations, resolve_relations

BOXES = np.array([[10, 20, 110, 220], [30, 5, 80, 60]], np.float32)
FEATURES = np.arange(16, dtype=np.float32).reshape(2, 8)


def bottom_up_tsv(folder):
    def packed(values):
        return base64.b64encode(values.astype("<f4").tobytes()).decode()

    path = folder / "test.tsv"
    path.write_text("\t".join(["7", "200", "300", "2", packed(BOXES), packed(FEATURES)]) + "\n")
    return path


def npz_folder(folder):
    inside = folder / "npz"
    inside.mkdir()
    np.savez(inside / "7.npz", x=FEATURES, bbox=BOXES, num_bbox=2, image_w=200, image_h=300)
    return inside


@pytest.mark.parametrize("write", [bottom_up_tsv, npz_folder])
def test_bottom_up(write, tmp_path):
    detector = create_detector("bottom-up", path=write(tmp_path))
    assert detector.covers("7.jpg")
    assert not detector.covers("8.jpg")
    found = detector.detect(LazyImage("7.jpg"))
    np.testing.assert_array_equal(found.boxes, BOXES)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.size == (200, 300)
    # The pipeline computes what is missing: relations and features of union boxes.
    features = resolve_features("auto", detector, has_pixels=False)
    relations = resolve_relations("auto", detector)
    assert (features, relations) == ("detector", "geometric")
    tools = create_relations(relations), create_extractor(features, detector)
    builder = GraphBuilder(detector, *tools, rules_for(detector))
    found, objects, unions = builder.build(ImageEntry("7.jpg", "7.jpg", "test"))
    np.testing.assert_array_equal(objects, FEATURES)
    assert len(found.relations) == 1
    np.testing.assert_array_equal(unions, FEATURES.mean(0, keepdims=True))


def test_scene_graph_benchmark(tmp_path):
    names = {
        "idx_to_files": ["images/7.jpg"],
        "ind_to_classes": ["__background__", "man", "hat"],
        "ind_to_predicates": ["__background__", "wearing"],
    }
    prediction = {
        "0": {
            "bbox": BOXES.tolist(),
            "bbox_labels": [1, 2],
            "bbox_scores": [0.9, 0.8],
            "rel_pairs": [[0, 1], [1, 0]],
            "rel_labels": [1, 1],
            "rel_scores": [0.7, 0.1],
            "rel_all_scores": [[0.3, 0.7], [0.9, 0.1]],
        }
    }
    (tmp_path / "custom_prediction.json").write_text(json.dumps(prediction))
    (tmp_path / "custom_data_info.json").write_text(json.dumps(names))
    detector = create_detector("scene-graph-benchmark", path=tmp_path)
    found = detector.detect(LazyImage("7.jpg"))
    assert found.labels == ("man", "hat")
    assert found.relations[0] == (0, "wearing", 1)
    assert resolve_relations("auto", detector) == "precomputed"
    _, scores = create_relations("precomputed").predict(found, 1)
    np.testing.assert_allclose(scores, [0.7])


def test_visual_genome(tmp_path):
    graph = {
        "image_id": 7,
        "objects": [
            {"object_id": 1, "x": 10, "y": 20, "w": 100, "h": 200, "names": ["man"]},
            {
                "object_id": 2,
                "x": 30,
                "y": 5,
                "w": 50,
                "h": 55,
                "names": ["hat"],
                "attributes": ["red"],
            },
        ],
        "relationships": [{"predicate": "wears", "subject_id": 1, "object_id": 2}],
    }
    (tmp_path / "scene_graphs.json").write_text(json.dumps([graph]))
    found = create_detector("visual-genome", path=tmp_path / "scene_graphs.json").detect(
        LazyImage("7")
    )
    np.testing.assert_array_equal(found.boxes, BOXES)
    assert found.relations == ((0, "wears", 1),)
    assert found.attributes[1] == ("red",)


@pytest.mark.parametrize(
    "name", ["bottom-up", "scene-graph-benchmark", "visual-genome", "entities", "scene-graphs"]
)
def test_detectors_of_files_need_a_file(name, tmp_path):
    with pytest.raises(UsageError, match="--detections PATH"):
        create_detector(name)
    with pytest.raises(MissingInput, match="nowhere"):
        create_detector(name, path=tmp_path / "nowhere")


COCO = "COCO_val2014_000000000123.jpg"


@pytest.mark.parametrize(
    ("in_file", "image_id", "known"),
    [
        ("123.jpg", "123", True),
        ("123.jpg", "123.jpg", True),
        ("123", "123.jpg", True),
        ("123", "123.png", True),
        ("123", COCO, True),
        ("123", "000000000123.jpg", True),
        (COCO.removesuffix(".jpg"), COCO, True),
        (COCO, COCO.removesuffix(".jpg"), True),
        ("000000000123.jpg", "000000000123", True),
        ("1234", COCO, False),
        ("123.jpg", "0123.jpg", False),
        ("12", "123.jpg", False),
    ],
)
def test_covered_images_can_be_read(in_file, image_id, known, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps({in_file: {"labels": [], "bbox": [], "rels": []}}))
    detector = create_detector("scene-graphs", path=tmp_path / "g.json")
    assert detector.covers(image_id) == known
    if known:
        assert detector.detect(LazyImage(image_id)).labels == ()
    else:
        with pytest.raises(UnknownName, match="no image"):
            detector.detect(LazyImage(image_id))


def test_visual_genome_numbers_match_file_names_of_coco(tmp_path):
    """Build the graph of an image named by Karpathy from a file that has numbers only."""
    graph = {"image_id": 123, "objects": [], "relationships": []}
    (tmp_path / "scene_graphs.json").write_text(json.dumps([graph]))
    detector = create_detector("visual-genome", path=tmp_path / "scene_graphs.json")
    tools = (create_relations("precomputed"), create_extractor("label", detector))
    builder = GraphBuilder(detector, *tools, rules_for(detector))
    graphs, _, _ = builder.build_all([ImageEntry(COCO, COCO, "")])
    assert graphs[0].labels == ("scene",)
