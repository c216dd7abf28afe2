"""ONNX detectors and backbones, tested with tiny models whose outputs are constants."""

import numpy as np
import pytest
import yaml
from PIL import Image

from features.errors import ConfigError, InputError, MissingInput, UsageError
from features.records import Detections
from pipeline.detect import create_detector
from pipeline.vision.extraction import create_extractor, resolve_features
from pipeline.vision.images import LazyImage
from pipeline.vision.onnx_spec import InputSpec
from pipeline.vision.roi import roi_align


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    """Return a protobuf field: an int, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def port(name, shape):
    """Return the ValueInfoProto of a float tensor."""
    axes = b"".join(field(1, field(1, side)) for side in shape)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, axes)))


def tiny_model(path, outputs, size=(64, 64), channels=3):
    """Return an ONNX file with constant outputs, and its input as the output ``seen``."""
    nodes, constants, ports = b"", b"", b""
    for name, value in outputs.items():
        value = np.asarray(value, np.float32)
        tensor = b"".join(field(1, side) for side in value.shape) + field(2, 1)
        tensor += field(8, f"{name}_is".encode()) + field(9, value.tobytes())
        constants += field(5, tensor)
        nodes += field(
            1, field(1, f"{name}_is".encode()) + field(2, name.encode()) + field(4, b"Identity")
        )
        ports += field(12, port(name, value.shape))
    shape = (1, channels, size[1], size[0])
    nodes += field(1, field(1, b"image") + field(2, b"seen") + field(4, b"Identity"))
    ports += field(12, port("seen", shape))
    graph = nodes + field(2, b"tiny") + constants + field(11, port("image", shape)) + ports
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 17)))


@pytest.fixture
def describe(tmp_path):
    """Return a function that writes a model and its YAML file and returns the latter's path."""

    def write(outputs, image=None, **keys):
        tiny_model(tmp_path / "tiny.onnx", outputs)
        document = {"model": "tiny.onnx", "input": {"size": [64, 64], **(image or {})}, **keys}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


WIDE = LazyImage.from_pixels("wide", np.full((100, 200, 3), 100, np.uint8))  # scaled by 0.32
LABELS = ["person", "dog"]


def found_by(path):
    return create_detector("onnx", path=path).detect(WIDE)


def test_dense_yolo(describe):
    # Columns: box, two class scores. Two boxes of one dog, a person, one with a low score.
    table = np.array(
        [
            [16, 8, 16, 8, 0.1, 0.9],
            [16, 8, 16, 9, 0.0, 0.8],
            [48, 16, 8, 8, 0.7, 0.0],
            [8, 8, 4, 4, 0.01, 0.02],
        ],
        np.float32,
    )
    for stored in (table, table.T):
        found = found_by(describe({"output0": stored[None]}, labels=LABELS, min_score=0.05))
        assert found.labels == ("dog", "person", "person")
        np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.1], rtol=1e-6)
        np.testing.assert_allclose(found.boxes[0], np.array([8, 4, 24, 12]) / 0.32, rtol=1e-5)
        assert found.size == (200, 100)


def test_dense_with_objectness(describe):
    table = np.array([[[16, 8, 16, 8, 0.5, 0.2, 0.9]]], np.float32)
    found = found_by(describe({"output0": table}, labels=LABELS, objectness=True))
    assert found.labels == ("dog", "person")
    np.testing.assert_allclose(found.scores, [0.45, 0.1], rtol=1e-6)


def test_split_detr(describe):
    """Decode DETR: fractions of the input, softmax with the background last, no NMS."""
    boxes = [[[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.2, 0.2]]]
    logits = [[[3.0, 0.0, 0.0], [0.0, 0.0, 9.0]]]
    path = describe(
        {"pred_boxes": boxes, "logits": logits},
        {"resize": "stretch"},
        labels=LABELS,
        decode="split",
        boxes="pred_boxes",
        scores="logits",
        unit="fraction",
        activation="softmax",
        background="last",
        nms_iou=1,
        min_score=0.5,
    )
    found = found_by(path)
    assert found.labels == ("person",)
    np.testing.assert_allclose(found.scores, np.exp(3) / (np.exp(3) + 2), rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [[50, 25, 150, 75]], rtol=1e-5)


def test_final_ssd(describe):
    """Decode SSD after NMS: yxyx fractions, class numbers from 1, one unknown class."""
    path = describe(
        {"boxes": [[[0, 0.5, 0.25, 1], [0, 0, 1, 1]]], "scores": [[0.8, 0.6]], "classes": [[2, 7]]},
        labels=LABELS,
        decode="final",
        boxes="boxes",
        scores="scores",
        classes="classes",
        box="yxyx",
        unit="fraction",
        first_class=1,
    )
    found = found_by(path)
    assert found.labels == ("dog",)
    np.testing.assert_allclose(found.boxes, [[100, 0, 200, 50]], rtol=1e-5)


def test_labels_from_a_file_and_sigmoid(describe, tmp_path):
    (tmp_path / "names.txt").write_text("person\ndog\n")
    table = np.array([[[16, 8, 16, 8, 0.0, -9.0]]], np.float32)
    found = found_by(describe({"output0": table}, labels="names.txt", activation="sigmoid"))
    assert found.labels == ("person",)
    np.testing.assert_allclose(found.scores, [0.5])


@pytest.mark.parametrize("resize", ["letterbox", "centre", "stretch"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_prepare(resize, layout):
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[:, :50] = (255, 0, 0)
    spec = InputSpec((64, 64), resize, 114, "bgr", (1, 2, 3), (2, 4, 8), layout, "float32")
    tensor, fit = spec.prepare(LazyImage.from_pixels("x", pixels))
    seen = tensor[0].transpose(1, 2, 0) if layout == "nchw" else tensor[0]
    assert seen.shape == (64, 64, 3)
    # ``fit`` returns the position of the left half's centre; channels are b, g, r.
    x, y = fit.to_input(np.array([[25, 25, 25, 25]], np.float32))[0, :2].astype(int)
    np.testing.assert_allclose(seen[y, x], [-0.5, -0.5, 31.5])
    if resize == "letterbox":
        np.testing.assert_allclose(seen[-1, -1], [56.5, 28, 13.875])
    boxes = np.array([[3, 4, 50, 41]], np.float32)
    np.testing.assert_allclose(fit.to_image(fit.to_input(boxes)), boxes, rtol=1e-5)


@pytest.mark.parametrize("resize", ["letterbox", "centre", "stretch"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_images_are_averaged_down(resize, kind, tmp_path):
    """The input is that from all pixels within a level or two, at exactly the same position."""
    x, y = np.meshgrid(np.linspace(0, 20, 645), np.linspace(0, 13, 403))
    waves = 128 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], 2)
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "large", kind, subsampling=0)

    factors = []

    class Spy(LazyImage):
        def reduced(self, limit):
            factors.append(super().reduced(limit)[1])
            return super().reduced(limit)

    class Whole(LazyImage):
        def reduced(self, limit):
            return self.rgb(), 1

    image = Spy.open("large", tmp_path / "large")
    whole = Whole.from_pixels("whole", image.rgb())
    spec = InputSpec((64, 48), resize, 0, "rgb", (0, 0, 0), (1, 1, 1), "nhwc", "float32")
    (seen, fit), (wanted, wanted_fit) = spec.prepare(image), spec.prepare(whole)
    assert fit == wanted_fit
    assert factors == [4]
    assert np.abs(seen - wanted).mean() <= 1.0
    assert np.abs(seen - wanted).max() <= 12
    spec.prepare(Spy.from_pixels("small", image.rgb()[:90, :120].copy()))
    assert factors == [4, 1]  # less than twice the input


def test_uint8_input_is_not_normalised():
    spec = InputSpec((4, 4), "stretch", 0, "rgb", (9, 9, 9), (2, 2, 2), "nhwc", "uint8")
    tensor, _ = spec.prepare(LazyImage.from_pixels("x", np.full((8, 8, 3), 77, np.uint8)))
    assert tensor.dtype == np.uint8
    assert (tensor == 77).all()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"labels": LABELS, "decode": "magic"}, "dense, split, final"),
        ({"labels": LABELS, "speed": 3}, "speed"),
        ({"labels": []}, "labels"),
        ({"labels": ["one"]}, "6 columns, expected 5"),
        ({"labels": LABELS, "tensor": "output9"}, "output9"),
        ({"labels": LABELS, "decode": "split"}, "boxes"),
        ({"labels": LABELS, "min_score": "low"}, "not a number"),
        ({"labels": LABELS, "input": {"size": [64]}}, "width, height"),
        ({"labels": LABELS, "input": {"size": [64, 64], "colour": "cmyk"}}, "rgb, bgr"),
        ({"labels": LABELS, "input": {"shape": [64, 64]}}, "size"),
    ],
)
def test_errors_in_the_yaml(describe, keys, words, tmp_path):
    path = describe({"output0": np.zeros((1, 3, 6))}, labels=LABELS)
    document = yaml.safe_load(path.read_text()) | keys
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=words) as caught:
        found_by(path)
    assert str(path) in str(caught.value)


def test_missing_and_damaged_files(describe, tmp_path):
    with pytest.raises(UsageError, match="--detections"):
        create_detector("onnx")
    with pytest.raises(MissingInput):
        create_detector("onnx", path=tmp_path / "nowhere.yaml")
    path = describe({"output0": np.zeros((1, 3, 6))}, labels=LABELS)
    (tmp_path / "tiny.onnx").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"tiny\.onnx"):
        found_by(path)
    (tmp_path / "tiny.onnx").unlink()
    with pytest.raises(MissingInput, match=r"tiny\.onnx"):
        create_detector("onnx", path=path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        create_detector("onnx", path=path)


def test_identity_follows_weights_and_description(describe):
    path = describe({"output0": np.zeros((1, 3, 6))}, labels=LABELS)
    first = create_detector("onnx", path=path).identity()
    describe({"output0": np.ones((1, 3, 6))}, labels=LABELS)
    assert create_detector("onnx", path=path).identity() != first


def related(boxes):
    boxes = np.array(boxes, np.float32)
    n = len(boxes)
    return Detections(
        boxes, ("x",) * n, np.ones(n, np.float32), (200, 100), relations=((0, "on", 1),)
    )


def test_onnx_backbone(describe):
    values = np.random.default_rng(0).normal(size=(1, 6, 8, 8)).astype(np.float32)
    path = describe({"features": values}, map="features")
    nanodet = create_detector("nanodet")
    name = f"onnx:{path}"
    assert resolve_features(name, nanodet) == name
    extractor = create_extractor(name, nanodet)
    found = related([[0, 0, 100, 100], [100, 20, 180, 90]])
    objects, unions = extractor.extract(WIDE, found)
    wanted = roi_align(values[0], found.boxes * 0.32, 8, sampling=0)[:, :, 0, 0]
    np.testing.assert_allclose(objects, wanted, atol=1e-5)
    both = roi_align(values[0], np.array([[0, 0, 180, 100]], np.float32) * 0.32, 8, sampling=0)
    np.testing.assert_allclose(unions, both[:, :, 0, 0], atol=1e-5)
    broken = describe({"features": values}, map="nothing")
    with pytest.raises(ConfigError, match="no output 'nothing'"):
        create_extractor(f"onnx:{broken}", nanodet).extract(WIDE, found)
    with pytest.raises(UsageError, match=r"onnx:FILE\.yaml"):
        create_extractor("onnx", nanodet)


def test_efficientnet_pools_boxes_of_its_map():
    extractor = create_extractor("efficientnet-lite0", create_detector("nanodet"))
    pixels = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
    found = related([[0, 0, 100, 100], [0, 0, 200, 100]])
    objects, unions = extractor.extract(LazyImage.from_pixels("x", pixels), found)
    assert objects.shape == (2, 1280)
    np.testing.assert_allclose(objects[1], unions[0], atol=1e-5)  # the union is the whole image
    assert np.abs(objects[0] - objects[1]).max() > 0.01
    assert len(extractor.identity()["weights"]) == 64
