"""Fit labels on a store of regions and build a store with them, command by command."""

import json

import numpy as np
import pytest

import features
from features.errors import MismatchError, UsageError
from pipeline.commands.app import app
from tests.workflows.conftest import COLOURS

BALL = "<bndbox><xmin>{0}</xmin><ymin>20</ymin><xmax>{1}</xmax><ymax>70</ymax></bndbox>"
XML = """<annotation><filename>{name}</filename>
<size><width>128</width><height>96</height><depth>3</depth></size>
<object><name>1</name>{ball}</object>
<object><name>2</name><scene>1</scene><nobndbox>1</nobndbox></object>
</annotation>"""


@pytest.fixture
def entities(tmp_path, names):
    """Write Flickr30k Entities for the drawn photos: a ball of some colour on grass."""
    folder = tmp_path / "entities"
    for part in ("Annotations", "Sentences"):
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(names):
        stem = name.removesuffix(".jpg")
        ball = BALL.format(20 + number, 70 + number)
        (folder / "Annotations" / f"{stem}.xml").write_text(XML.format(name=name, ball=ball))
        colour = COLOURS[number % 4]
        (folder / "Sentences" / f"{stem}.txt").write_text(
            f"[/EN#1/other A {colour} ball] lies on [/EN#2/scene grass] .\n"
        )
    return folder


def test_a_store_with_labels_fitted_on_another(data, entities, run_luigi, tmp_path, capfd):
    regions = {**data, "--store-dir": tmp_path / "regions", "--detector": "regions"}
    regions |= {"--features": "nanodet", "--max-relations": 1, "--jobs": 1}
    assert run_luigi("BuildDataset", regions)[0] == 0
    words = ["fit-labels", tmp_path / "regions", "x.npz", "--entities", entities]
    with pytest.raises(UsageError, match="Build their store with"):  # 36 objects are too few
        app.call([*map(str, words), "--min-boxes", "2"])
    assert run_luigi("BuildDataset", regions, "--max-objects", "128")[0] == 0
    head = tmp_path / "head.npz"
    words = ["fit-labels", tmp_path / "regions", head, "--entities", entities, "--min-boxes", 2]
    assert app.call([*map(str, words), "--epochs", "60"]) == 0
    said = capfd.readouterr().out
    assert said.startswith(f"{head}: 2 images, 2 nouns")
    assert "of 4 gold boxes are found and named" in said  # two validation images

    named = {**data, "--labels": head, "--jobs": 1}
    code, _, err = run_luigi("BuildDataset", named)
    assert code == 0, err
    store = features.open_store(data["--store-dir"])
    made = store.group("visual").manifest.params["parameters"]
    assert made["detector"]["name"] == "labelled"
    assert made["relations"]["name"] == "fitted"
    features_of = store.group("regions").manifest.params["parameters"]["features"]
    assert features_of["name"] == "labelled"
    assert store.row_shape("object_features")[-1] == 576 + 2 + len(_attributes(head))
    graph = store.graph("000.jpg")
    assert {"ball", "grass"} <= set(graph.labels)
    assert graph.shown == pytest.approx(made["detector"]["shown"])
    assert store.has("object_attribute_score")

    code, out, _ = run_luigi("BuildDataset", named)
    assert (code, "nothing to build" in out) == (0, True)
    photo = ["photo", str(data["--images-dir"] / "000.jpg"), "--like", str(data["--store-dir"])]
    with pytest.raises(MismatchError, match=r"label head that the store was built with"):
        app.call([*photo, "--out", str(tmp_path / "p.npz")])
    photo += ["--detections", str(head), "--out", str(tmp_path / "p.npz")]
    assert app.call(photo) == 0
    again = features.format.read_photos(tmp_path / "p.npz")[0][0].found
    assert again.labels == graph.labels
    np.testing.assert_array_equal(again.boxes, graph.boxes)


def _attributes(head):
    with np.load(head) as arrays:
        return arrays["attributes"]


def test_labels_and_detector_must_fit(data, run_luigi, tmp_path):
    code, _, err = run_luigi("BuildDataset", data, "--labels", "x.npz", "--detector", "nanodet")
    assert code != 0
    assert "--labels x.npz is for the detector 'labelled', not 'nanodet'" in err
    code, _, err = run_luigi("BuildDataset", data, "--detections", "x.json")
    assert code != 0
    assert "name the detector that reads it with --detector" in err
    (tmp_path / "bad.npz").write_text(json.dumps({}))
    code, _, err = run_luigi("BuildDataset", data, "--labels", str(tmp_path / "bad.npz"))
    assert code != 0
    assert "not a label head written by fit-labels" in err
