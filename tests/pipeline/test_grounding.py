"""Grounded scene graphs: boxes of a drawn Entities folder, linked with its captions."""

import json
import shutil

import numpy as np
import pytest

from features.errors import MissingInput, UsageError
from features.records import ImageEntry
from pipeline.commands.app import app
from pipeline.grounding.detector import Grounded
from pipeline.vision.detection import create_detector
from pipeline.vision.extraction import create_extractor
from pipeline.vision.graph_builder import GraphBuilder, rules_for
from pipeline.vision.images import LazyImage
from pipeline.vision.predictors.prior import PriorTable
from pipeline.vision.relations import create_relations, resolve_relations

# One rider, one horse, two dogs; the beach has no box. Names as in Flickr8k.
XML = """<annotation><filename>12.jpg</filename>
<size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>1</name>{rider}</object>
<object><name>2</name>{horse}</object>
<object><name>3</name>{near}</object>
<object><name>3</name>{far}</object>
<object><name>4</name>{shirt}</object>
<object><name>5</name><scene>1</scene><nobndbox>1</nobndbox></object>
</annotation>"""
BOXES = {
    "rider": (50, 10, 80, 60),
    "horse": (40, 40, 100, 90),
    "near": (101, 60, 120, 90),
    "far": (160, 60, 180, 90),
    "shirt": (55, 20, 75, 40),
}
CAPTIONS = (
    "[/EN#1/people A young man] rides [/EN#2/animals a brown horse] on [/EN#5/scene a beach] .",
    "[/EN#1/people A boy] in [/EN#4/clothing a red shirt] is riding [/EN#2/animals a horse] .",
    "[/EN#3/animals A pair of black dogs] run behind [/EN#2/animals a horse] .",
    "[/EN#1/people A boy] rides [/EN#2/animals his horse] .",
    "[/EN#3/animals Two dogs] watch [/EN#1/people a rider] .",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("entities")
    for name in ("Annotations", "Sentences"):
        (root / name).mkdir()
    corners = ("xmin", "ymin", "xmax", "ymax")
    drawn = {
        name: "<bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(corners, box, strict=True))
        + "</bndbox>"
        for name, box in BOXES.items()
    }
    (root / "Annotations" / "12_ab.xml").write_text(XML.format(**drawn))
    (root / "Sentences" / "12_ab.txt").write_text("\n".join(CAPTIONS))
    return root


@pytest.fixture(scope="module")
def grounded(folder):
    return Grounded(folder)


@pytest.fixture(scope="module")
def graph(grounded):
    return grounded.graph("12_ab.jpg")


def test_labels_are_the_most_frequent_head_nouns(graph):
    assert graph.labels == ("boy", "horse", "dog", "dog", "shirt", "beach")
    assert dict(graph.nouns[0]) == {"man": 1, "boy": 2, "rider": 1}


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("A boy wears [/EN#4/clothing black sunglasses] .", "sunglasses"),
        ("A boy wears [/EN#4/clothing his glasses] .", "glasses"),
        ("A boy holds [/EN#4/other two glasses] .", "glass"),
        ("A boy holds [/EN#4/other a glass] of water .", "glass"),
    ],
)
def test_eyewear_keeps_its_plural(folder, tmp_path, caption, label):
    copy = shutil.copytree(folder, tmp_path / "entities")
    (copy / "Sentences" / "12_ab.txt").write_text(caption)
    graph = Grounded(copy).graph("12_ab.jpg")
    assert label in graph.labels


def test_control_characters_of_captions_are_spaces(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "entities")
    odd = (
        "A boy\x0b in [/EN#4/clothing a\x00red\u2028shirt] .\nA [/EN#2/animals horse\x85] runs .\n"
    )
    (copy / "Sentences" / "12_ab.txt").write_text(odd)
    graph = Grounded(copy).graph("12_ab.jpg")
    assert graph.labels[4] == "shirt"
    assert set(graph.attributes[4]) == {"red"}
    assert graph.captions == 2


def test_attributes_belong_to_the_head_of_their_phrase(graph):
    found = [tuple(names) for names in graph.attributes]
    assert found == [("young",), ("brown",), ("black",), ("black",), ("red",), ()]


def test_scene_without_a_box_covers_the_image(graph):
    assert graph.boxes[5].tolist() == [0, 0, 200, 100]


def test_relations_of_all_captions_are_merged_by_entity(graph):
    assert graph.relations[0] == (0, "ride", 1)
    assert {e.caption for e in graph.evidence[0]} == {0, 1, 3}
    assert (0, "in", 4) in graph.relations
    # Each of two dogs is related to the horse.
    assert {(2, "run behind", 1), (3, "run behind", 1)} <= set(graph.relations)


def test_evidence_points_at_the_words(graph):
    words = CAPTIONS[0].split()
    at = graph.evidence[0][0]
    plain = [w.rstrip("]") for w in words if not w.startswith("[/EN")]
    assert [plain[at.subject], *(plain[i] for i in at.predicate), plain[at.object]] == [
        "man",
        "rides",
        "horse",
    ]


def test_one_entity_is_not_related_to_itself(graph):
    assert all(subject != target for subject, _, target in graph.relations)


def test_counts_of_triplets(folder):
    detector = Grounded(folder)
    detector.graph("12_ab.jpg")
    counts = detector.counts
    parts = counts.grounded + counts.without_box + counts.within + counts.outside
    assert counts.triplets == parts > 4
    assert counts.share > 0.75


def test_detector_builds_a_graph_without_pixels(folder):
    detector = create_detector("grounded", path=folder)
    assert detector.covers("12_ab.jpg")
    assert not detector.covers("13.jpg")
    assert resolve_relations("auto", detector) == "precomputed"
    tools = create_relations("precomputed"), create_extractor("label", detector)
    builder = GraphBuilder(detector, *tools, rules_for(detector))
    found, _, unions = builder.build(ImageEntry("12_ab.jpg", "12_ab.jpg", "train"))
    assert found.labels[0] == "boy"
    assert found.attributes[0] == ("young",)
    assert found.relation_scores.max() == pytest.approx(3 / 5)
    assert len(unions) == len(found.relations)


def test_identity_follows_content_and_profile(folder, grounded):
    assert grounded.identity() == Grounded(folder).identity()
    assert grounded.identity() != Grounded(folder, profile="extended").identity()


def test_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="--detections"):
        create_detector("grounded")
    with pytest.raises(MissingInput):
        create_detector("grounded", path=tmp_path)


def test_detections_equal_the_graph(grounded, graph):
    found = grounded.detect(LazyImage("12_ab.jpg"))
    assert found.relations == graph.relations
    assert found.size == (200, 100)


def test_predicates_are_fitted_on_grounded_graphs(folder, tmp_path, capsys):
    for kind, end in (("Annotations", ".xml"), ("Sentences", ".txt")):
        (tmp_path / kind).mkdir()
        text = (folder / kind / f"12_ab{end}").read_text()
        for number in (12, 13):
            copied = text.replace("12.jpg", f"{number}.jpg")
            (tmp_path / kind / f"{number}{end}").write_text(copied)
    out = tmp_path / "table.npz"
    options = ["--entities", str(tmp_path), "--min-boxes", "1", "--min-relations", "1"]
    assert app.call(["fit-relations", str(out), *options]) == 0
    assert "2 graphs" in capsys.readouterr().out
    table = PriorTable.load(out)
    assert "ride" in table.predicates
    assert {"boy", "horse", "dog"} <= set(table.labels)


def test_exported_graphs_state_their_evidence_and_are_read_back(grounded, folder, tmp_path, graph):
    out = tmp_path / "scene_graphs.json"
    assert app.call(["ground", str(folder), str(out)]) == 0
    (entry,) = json.loads(out.read_text())
    rides = next(r for r in entry["relationships"] if r["predicate"] == "ride")
    assert {words["caption"] for words in rides["evidence"]} == {0, 1, 3}
    for words in rides["evidence"]:
        tokens = words["text"].split()
        assert [tokens[at] for at in words["predicate"]] in (
            ["rides"],
            ["riding"],
            ["is", "riding"],
        )
        assert tokens[words["object"]] == "horse"
    assert entry["objects"][0]["names"][0] == "boy"
    read = create_detector("visual-genome", path=out).detect(LazyImage("12_ab"))
    assert read.size == graph.size
    assert read.labels == graph.labels
    assert read.relations == graph.relations
    np.testing.assert_allclose(read.boxes, graph.boxes)
