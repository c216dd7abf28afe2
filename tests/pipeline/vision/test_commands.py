"""The commands detect, evaluate-detections and fit-relations."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from features.errors import ImageError, UsageError
from pipeline.commands.app import app


@pytest.fixture
def call(capsys):
    def run(*arguments):
        assert app.call([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


PHOTOS = Path(skimage.__path__[0]) / "data"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a cat.png"
    with Image.open(PHOTOS / "chelsea.png") as image:
        image.convert("RGB").save(path)
    return path


def test_detect_prints_boxes(call, photo):
    clear = call("detect", PHOTOS / "motorcycle_left.png", "--max-objects", 3).splitlines()
    assert clear[0].endswith(", 1 object")
    assert clear[1].split()[-1] == "motorcycle"
    assert clear[2].startswith("  2 more objects below confidence 0.5")
    doubtful = call("detect", photo, "--max-objects", 3).splitlines()
    assert doubtful[0] == f"{photo}: 451 x 300, 0 objects"  # a cat, with a score of 0.52
    assert re.fullmatch(
        r"  none reaches confidence 0\.5\d; the best: 0\.5\d cat(, 0\.\d\d \w+)*", doubtful[1]
    )
    assert doubtful[2].startswith("  3 more objects below confidence 0.5")
    plain = call("detect", photo, "--detector", "nanodet", "--max-objects", 3).splitlines()
    assert plain[1].split()[-1] == "cat"
    assert "confidence" not in plain[-1]  # its scores are not calibrated


def test_detect_as_json_and_drawn(call, photo, tmp_path):
    out = tmp_path / "drawn" / "cat.png"
    text = call("detect", photo, "--json", "--draw", out, "--relations", "geometric")
    result = json.loads(text)
    assert result["size"] == [451, 300]
    assert result["objects"][0]["label"] == "cat"
    assert len(result["objects"][0]["box"]) == 4
    assert len(result["objects"]) > 3  # all objects, with the score from which they are shown
    assert 0.4 < result["shown_from"]["objects"] < 0.7
    assert result["relations"]
    with Image.open(out) as drawing:
        assert drawing.size[0] > 400
    call("detect", photo, photo, "--draw", tmp_path / "many")
    assert (tmp_path / "many" / "a cat.png").is_file()


def test_detect_errors(call, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        call("detect", tmp_path / "nowhere.jpg")
    with pytest.raises(UsageError, match="max-objects"):
        call("detect", tmp_path / "nowhere.jpg", "--max-objects", 0)
    with pytest.raises(UsageError, match="reads no file"):
        call("detect", tmp_path / "a.jpg", "--detector", "nanodet", "--detections", "x.json")


@pytest.fixture
def graphs(tmp_path):
    draw = np.random.default_rng(0)
    document = {}
    for number in range(30):
        x, y = draw.uniform(0, 100, 2).tolist()
        document[f"{number}.jpg"] = {
            "labels": ["man", "hat", "dog"],
            "bbox": [
                [x, y, x + 40, y + 90],
                [x + 10, y, x + 30, y + 15],
                [150.0, 150.0, 180.0, 190.0],
            ],
            "rels": [["man:0", "wearing", "hat:1"]],
        }
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(document))
    return path


def test_fit_and_evaluate_relations(call, graphs, tmp_path):
    out = tmp_path / "table.npz"
    said = call("fit-relations", out, "--graphs", graphs, "--about", "test")
    assert "30 graphs, 30 relations, 1 predicates, 3 labels" in said
    result = json.loads(call("evaluate-detections", "--graphs", graphs, "--table", out, "--json"))
    assert result["predicate top-1"] == 100
    assert result["relation recall@25"] == 100
    text = call("evaluate-detections", "--graphs", graphs, "--relations", "geometric")
    assert "relation recall@25" in text


def test_fit_from_a_store(call, tiny_records, tmp_path):
    from pipeline.vision.predictors.prior import PriorTable

    store = tiny_records(24)
    call("fit-relations", tmp_path / "t.npz", "--store", store.path)
    table = PriorTable.load(tmp_path / "t.npz")
    assert table.counts.sum() == sum(len(text.relations) for text in store.texts)
    assert set(table.predicates) == {p for text in store.texts for _, p, _ in text.relations}


def test_evaluate_errors(call):
    with pytest.raises(UsageError, match="nothing to evaluate"):
        call("evaluate-detections")
    with pytest.raises(UsageError, match="images-dir"):
        call("evaluate-detections", "--coco", "x.json")
