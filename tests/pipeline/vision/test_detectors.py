"""Detectors: the packaged network, precomputed files, plug-ins, and the registry."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from features.errors import ImageError, InputError, UnknownName, UsageError
from features.records import Detections
from pipeline.detect import Detector, create_detector, detect, detectors
from pipeline.vision.boxes import iou_matrix
from pipeline.vision.detectors.nanodet import (
    FEATURE_DIM,
    SIDE,
    WEIGHTS,
    coco_classes,
    forward,
    letterbox,
    nanodet_features,
    normalise,
)
from pipeline.vision.images import LazyImage, read_image

PHOTOS = Path(skimage.__file__).parent / "data"
CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cat():
    return LazyImage.from_pixels("chelsea.png", read_image(PHOTOS / "chelsea.png"))


def test_nanodet_on_public_domain_photos():
    # Best label and score of an independent decoding of the same weights.
    wanted = {
        "astronaut.png": ("person", 0.73),
        "chelsea.png": ("cat", 0.55),
        "horse.png": ("horse", 0.65),
    }
    for (name, (label, score)), found in zip(
        wanted.items(), detect([PHOTOS / name for name in wanted], "nanodet"), strict=True
    ):
        assert found.labels[0] == label, name
        assert abs(found.scores[0] - score) < 0.03
        assert (np.diff(found.scores) <= 0).all()
        assert len(found.labels) <= 100
        width, height = found.size
        assert found.boxes.dtype == np.float32
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_boxes_scale_with_the_image(cat):
    small = detect(PHOTOS / "chelsea.png", max_objects=1)[0]
    height, width = cat.rgb().shape[:2]
    large = np.asarray(Image.fromarray(cat.rgb()).resize((width * 4, height * 4)))
    found = create_detector("nanodet").detect(LazyImage.from_pixels("large", large))
    assert found.labels[0] == "cat"
    assert iou_matrix(small.boxes, found.boxes[:1] / 4)[0, 0] > 0.9


def test_nms_is_per_class(cat):
    found = create_detector("nanodet").detect(cat)
    overlaps = iou_matrix(found.boxes, found.boxes)
    same = np.array([[a == b for a in found.labels] for b in found.labels])
    np.fill_diagonal(same, False)
    assert overlaps[same].max() <= 0.6001


def test_detector_and_features_share_one_run(cat, monkeypatch):
    from pipeline.vision.detectors import nanodet

    image = LazyImage.from_pixels("x", cat.rgb())
    calls = []
    network, names = nanodet.session()

    class Counting:
        def run(self, *args):
            calls.append(args)
            return network.run(*args)

    monkeypatch.setattr(nanodet, "session", lambda: (Counting(), names))
    found = create_detector("nanodet").detect(image)
    assert nanodet_features(image, found.boxes[:3]).shape == (3, FEATURE_DIM)
    assert len(calls) == 1


def test_features_distinguish_colours():
    """Two squares of different colours differ in the colour features; all features are finite."""
    pixels = np.full((300, 400, 3), 128, np.uint8)
    pixels[100:180, 40:120] = (205, 45, 45)
    pixels[100:180, 240:320] = (50, 80, 190)
    boxes = np.array([[40, 100, 120, 180], [240, 100, 320, 180], [0, 0, 400, 300]], np.float32)
    features = nanodet_features(LazyImage.from_pixels("squares", pixels), boxes)
    assert np.isfinite(features).all()
    assert features.dtype == np.float32
    colours = features[:, -32:]
    assert colours[0, 6:16].argmax() == 3  # red in the palette
    assert colours[1, 6:16].argmax() == 8  # blue
    assert np.abs(features).max() < 1000  # fits float16 by far


def test_letterbox_keeps_the_aspect_and_pads_with_zeros():
    pixels = np.full((100, 200, 3), 200, np.uint8)
    scaled = letterbox(pixels, (200, 100))
    assert scaled.shape == (212, SIDE, 3)  # 208 rows of the image and one row of 4-pixel cells
    assert (scaled[:200] == 200).all()
    assert (scaled[209:] == 0).all()
    assert letterbox(pixels[:, :100], (100, 100)).shape == (SIDE, SIDE, 3)
    assert letterbox(np.full((1, 1, 3), 7, np.uint8), (1, 1)).max() == 7
    thin = LazyImage.from_pixels("thin", np.full((5000, 3, 3), 9, np.uint8))
    assert letterbox(*thin.reduced(1)[:1], thin.size).max() == 0  # sampled outside the image
    few, factor = thin.reduced(8)
    assert letterbox(few, thin.size, factor).max() == 9


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png"])
def test_a_large_jpeg_decoded_at_reduced_size(name, tmp_path):
    """Compare with the average of all pixels: IoU 0.9 for boxes, cosine 0.999 for features."""
    photo = Image.open(PHOTOS / name).convert("RGB")
    large = photo.resize((photo.width * 5, photo.height * 5), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 5, (large.height, large.width, 1))
    pixels = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=92)
    detector = create_detector("nanodet")
    quick = LazyImage.open("quick", tmp_path / "large.jpg")
    found = detector.detect(quick)
    whole = LazyImage.from_pixels("whole", read_image(tmp_path / "large.jpg"))
    wanted = detector.detect(whole)
    limit = max(large.size) / (1.5 * SIDE)
    assert not np.array_equal(
        quick.reduced(limit)[0], whole.reduced(limit)[0]
    )  # decoded differently
    assert found.size == wanted.size == large.size
    clear = np.flatnonzero(wanted.scores >= 0.4)
    assert len(clear)
    overlap = iou_matrix(wanted.boxes[clear], found.boxes)
    best = overlap.argmax(1)
    assert overlap.max(1).min() >= 0.9
    assert [found.labels[row] for row in best] == [wanted.labels[row] for row in clear]
    np.testing.assert_allclose(found.scores[best], wanted.scores[clear], atol=0.03)
    boxes = wanted.boxes[:36]
    a, b = nanodet_features(quick, boxes), nanodet_features(whole, boxes)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() >= 0.999


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (120, 120), (3, 500)])
def test_the_input_is_the_padded_picturenormalise(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    scaled = letterbox(pixels, size[::-1])
    square = np.zeros((SIDE, SIDE, 3), np.float32)
    square[: scaled.shape[0], : scaled.shape[1]] = scaled
    wanted = (square[..., ::-1] - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
    for _ in range(2):  # the second call must not see the first image
        np.testing.assert_allclose(normalise(scaled)[0], wanted.transpose(2, 0, 1), atol=1e-5)


def test_many_candidates_are_the_best_in_order():
    draw = np.random.default_rng(0)
    outputs = {}
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2
        # Few levels, so that equal scores occur at the limit: the first cells are kept.
        scores = draw.integers(0, 50, (1, cells, 80)).astype(np.float32) / 100
        outputs[f"c{stride}"] = scores
        outputs[f"r{stride}"] = np.zeros((1, cells, 44), np.float32)
    _, scores, classes = create_detector("nanodet", candidates=500).decode(outputs)
    every = np.concatenate([outputs[f"c{stride}"].reshape(-1) for stride in (8, 16, 32)])
    best = np.argsort(-every, kind="stable")[:500]
    np.testing.assert_array_equal(scores, every[best])
    np.testing.assert_array_equal(classes, best % 80)


def test_decoding_by_hand():
    """One cell of stride 16 has a score; its sides are 1, 2, 3 and 4.5 strides from its centre."""
    outputs = {}
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2
        outputs[f"c{stride}"] = np.zeros((1, cells, 80), np.float32)
        outputs[f"r{stride}"] = np.zeros((1, cells, 44), np.float32)
    cell = 3 * (SIDE // 16) + 7  # row 3, column 7: centre (120, 56)
    outputs["c16"][0, cell, 15] = 0.8
    bins = outputs["r16"][0, cell].reshape(4, 11)
    for side, peaks in enumerate([[1], [2], [3], [4, 5]]):  # left, top, right, bottom
        bins[side, peaks] = 50
    boxes, scores, classes = create_detector("nanodet").decode(outputs)
    np.testing.assert_allclose(boxes, [[120 - 16, 56 - 32, 120 + 48, 56 + 72]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.8], rtol=1e-6)
    assert coco_classes()[classes[0]] == "cat"


def test_images_of_extreme_shapes():
    for shape in ((1, 1, 3), (2, 3000, 3), (3000, 2, 3)):
        black = LazyImage.from_pixels("x", np.zeros(shape, np.uint8))
        found = create_detector("nanodet").detect(black)
        assert found.size == (shape[1], shape[0])


def test_the_network_is_deterministic(cat):
    first, second = (forward(LazyImage.from_pixels("x", cat.rgb())) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_weights_have_a_notice():
    notice = (WEIGHTS.parent / "NOTICE").read_text()
    for words in ("Apache License", "RangiLyu/nanodet", "Changes made"):
        assert words in notice
    assert len(coco_classes()) == len(set(coco_classes())) == 80


def test_identity_follows_the_options():
    plain, strict = create_detector("nanodet"), create_detector("nanodet", min_score=0.3)
    assert plain.identity() == create_detector("nanodet").identity()
    assert plain.identity() != strict.identity()
    assert len(plain.identity()["weights"]) == 64
    json.dumps(plain.identity())
    assert isinstance(plain, Detector)


def test_min_score_and_candidates(cat):
    found = create_detector("nanodet", min_score=0.3).detect(cat)
    assert found.scores.min() >= 0.3
    assert len(create_detector("nanodet", candidates=1).detect(cat).labels) == 1
    with pytest.raises(UsageError, match="nms_iou"):
        create_detector("nanodet", nms_iou=0)


def test_wrong_names_and_options():
    with pytest.raises(UnknownName, match="nanodet"):
        create_detector("nanodett")
    with pytest.raises(UsageError, match="reads no file"):
        create_detector("nanodet", path="boxes.json")
    with pytest.raises(UsageError, match="speed"):
        create_detector("nanodet", speed=3)
    with pytest.raises(UsageError, match="--detections"):
        create_detector("scene-graphs")


def test_a_broken_photo_is_one_clear_error(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        detect([tmp_path / "broken.jpg"])


GRAPHS = {
    "1.jpg": {
        "labels": ["man", "hat"],
        "bbox": [[10.0, 10.0, 60.0, 90.0], [20.0, 5.0, 40.0, 20.0]],
        "rels": [["man:0", "wearing", "hat:1"]],
    }
}


def test_scene_graphs_without_photos(tmp_path):
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(GRAPHS))
    detector = create_detector("scene-graphs", path=path)
    assert detector.covers("1.jpg")
    assert detector.covers("1")
    assert not detector.covers("2.jpg")
    found = detector.detect(LazyImage("1.jpg"))
    assert found.labels == ("man", "hat")
    assert found.relations == ((0, "wearing", 1),)
    assert not detector.needs_pixels
    (tmp_path / "moved.json").write_text(json.dumps(GRAPHS))
    moved = create_detector("scene-graphs", path=tmp_path / "moved.json")
    assert moved.identity() == detector.identity()  # the content matters, not the name
    path.write_text(json.dumps(GRAPHS) + " ")
    assert create_detector("scene-graphs", path=path).identity() != moved.identity()


def test_entities(tmp_path):
    folder = tmp_path / "Annotations"
    folder.mkdir()
    (folder / "7.xml").write_text(
        "<annotation><filename>7.jpg</filename><size><width>50</width><height>40</height>"
        "<depth>3</depth></size><object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>50</xmax><ymax>20</ymax></bndbox></object></annotation>"
    )
    for root in (tmp_path, folder):
        found = create_detector("entities", path=root).detect(LazyImage("7.jpg"))
        np.testing.assert_array_equal(found.boxes, [[0, 0, 50, 20]])
        assert found.size == (50, 40)


def test_select_follows_relations_and_features():
    found = Detections(
        np.arange(12, dtype=np.float32).reshape(3, 4),
        ("a", "b", "c"),
        np.array([0.9, 0.5, 0.1], np.float32),
        (99, 99),
        features=np.eye(3, dtype=np.float32),
        attributes=(("red",), (), ("big",)),
        relations=((0, "on", 2), (1, "near", 0), (2, "under", 0)),
        relation_scores=np.array([0.8, 0.7, 0.6], np.float32),
    )
    chosen = found.select([2, 0])
    assert chosen.labels == ("c", "a")
    assert chosen.relations == ((1, "on", 0), (0, "under", 1))
    np.testing.assert_allclose(chosen.relation_scores, [0.8, 0.6])
    np.testing.assert_array_equal(chosen.features, np.eye(3)[[2, 0]])
    assert chosen.attributes == (("big",), ("red",))


def test_own_detector_of_the_examples(tmp_path):
    script = CHECKOUT / "examples" / "own_detector.py"
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[5:10, 10:30] = 255
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "spot.png")],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert "[[10.0, 5.0, 30.0, 10.0]] [0.125]" in run.stdout
    runpy.run_path(str(script))
    (found,) = detect([tmp_path / "spot.png"], "bright-spot")
    assert found.labels == ("bright spot",)
    assert "bright-spot" in detectors.names()
    body = script.read_text().split("@detectors")[1].split("if __name__")[0].strip().splitlines()
    assert len([line for line in body if line.strip()]) <= 20


def test_import_is_light():
    heavy = "('torch', 'onnxruntime', 'matplotlib', 'PIL')"
    code = (
        "import sys, pipeline.detect, pipeline.vision.graph_builder, pipeline.commands.app;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert run.stdout.strip() == "[]"


def test_a_damaged_file_is_an_input_error(tmp_path):
    (tmp_path / "graphs.json").write_text("{")
    with pytest.raises(InputError, match=r"graphs\.json"):
        create_detector("scene-graphs", path=tmp_path / "graphs.json")
