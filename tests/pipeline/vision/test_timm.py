"""Backbones of timm, with a substitute for the package and with timm if installed."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from features.errors import ConfigError, InputError, MissingDependency, UnknownName, UsageError
from features.records import Detections
from pipeline.detect import create_detector
from pipeline.vision.extraction import create_extractor
from pipeline.vision.images import LazyImage

RED, BLUE = (250, 20, 20), (10, 30, 240)
PIXELS = np.zeros((32, 64, 3), np.uint8)
PIXELS[:, :32], PIXELS[:, 32:] = RED, BLUE
PICTURE = LazyImage.from_pixels("x", PIXELS)
FOUND = Detections(
    np.array([[0, 0, 32, 32], [32, 0, 64, 32], [40, 8, 41, 9]], np.float32),
    ("left", "right", "small"),
    np.ones(3, np.float32),
    (64, 32),
    relations=((0, "next to", 1),),
)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


class Tiny(nn.Module):
    """A patch embedding that returns a map, tokens, or a map with channels last."""

    num_features = 3
    num_prefix_tokens = 1

    def __init__(self, name, width=3):
        super().__init__()
        self.name = name
        self.stem = nn.Conv2d(3, width, 8, 8)
        self.pretrained_cfg = {"input_size": (3, 64, 64), "mean": MEAN, "std": STD}

    def forward_features(self, images):
        values = self.stem(images)  # (1, 3, 8, 8)
        if self.name == "channels-last":
            return values.permute(0, 2, 3, 1)
        if self.name == "tokens":
            tokens = values.flatten(2).transpose(1, 2)
            return torch.cat([torch.full((1, 1, 3), 99.0), tokens], 1)
        return values.mean((2, 3)) if self.name == "vector" else values


@pytest.fixture
def asked(monkeypatch):
    """Replace timm by a substitute; return the calls it gets."""
    calls = []

    def create_model(name, pretrained=False, num_classes=1000, width=3):
        calls.append((name, pretrained, num_classes))
        if pretrained:
            raise ConnectionError("no route to the hub")
        return Tiny(name, width)

    names = ["map", "tokens", "channels-last", "vector"]
    package = types.ModuleType("timm")
    package.create_model, package.list_models = create_model, lambda: names
    package.is_model = lambda name: name in names
    monkeypatch.setitem(sys.modules, "timm", package)
    return calls


def means():
    """Return weights that average the normalised red, green and blue of a patch."""
    weight = torch.zeros(3, 3, 8, 8)
    for channel in range(3):
        weight[channel, channel] = 1 / 64
    return {"stem.weight": weight, "stem.bias": torch.zeros(3)}


def normalised(colour):
    return (np.array(colour) / 255 - MEAN) / STD


def extractor(name):
    return create_extractor(f"timm:{name}", create_detector("nanodet"))


@pytest.mark.parametrize("name", ["map", "tokens", "channels-last"])
def test_features_are_the_means_over_the_boxes(asked, name, tmp_path):
    torch.save({"state_dict": {f"module.{k}": v for k, v in means().items()}}, tmp_path / "w.pth")
    chosen = extractor(f"{name}={tmp_path}/w.pth")
    objects, unions = chosen.extract(PICTURE, FOUND)
    assert asked == [(name, False, 0)]
    assert chosen.loaded[0].training is False
    assert objects.shape == (3, 3)
    near, far = normalised(RED), normalised(BLUE)
    np.testing.assert_allclose(objects[0], near, atol=1e-4)
    np.testing.assert_allclose(objects[1], far, atol=1e-4)
    np.testing.assert_allclose(objects[2], far, atol=1e-4)
    np.testing.assert_allclose(unions, [(near + far) / 2], atol=1e-4)


def test_weights_of_three_forms_are_part_of_the_key(asked, tmp_path):
    torch.save(means(), tmp_path / "plain.pth")
    save_file({**means(), "head.weight": torch.zeros(9, 3)}, tmp_path / "more.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    config = {
        "architecture": "map",
        "model_args": {"width": 3},
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"no weights file \(model\.safetensors or"):
        extractor(folder)
    save_file(means(), folder / "model.safetensors")
    made = [
        extractor(given)
        for given in (
            f"map={tmp_path}/plain.pth",
            f"map={tmp_path}/more.safetensors",
            folder,
            "map",
        )
    ]
    first, second, third = (one.extract(PICTURE, FOUND)[0] for one in made[:3])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(third[0], np.array(RED) / 255, atol=1e-4)  # the folder's mean, std
    keys = [json.dumps(one.identity(), sort_keys=True) for one in made]
    assert len(set(keys)) == 4
    config["pretrained_cfg"]["std"] = [2, 1, 1]
    (folder / "config.json").write_text(json.dumps(config))
    assert json.dumps(extractor(folder).identity(), sort_keys=True) not in keys
    (tmp_path / "elsewhere.pth").write_bytes((tmp_path / "plain.pth").read_bytes())
    assert extractor(f"map={tmp_path}/elsewhere.pth").identity() == made[0].identity()


def test_errors(asked, tmp_path, monkeypatch):
    for nothing in ("timm", "timm:"):
        with pytest.raises(UsageError, match="timm:efficientnet_b5"):
            create_extractor(nothing, create_detector("nanodet"))
    with pytest.raises(UnknownName, match="tokens"):
        extractor("token").extract(PICTURE, FOUND)
    with pytest.raises(InputError, match="no route to the hub"):
        extractor("map").extract(PICTURE, FOUND)
    torch.save({"stem.weight": means()["stem.weight"]}, tmp_path / "half.pth")
    torch.save({**means(), "stem.bias": torch.zeros(4)}, tmp_path / "wide.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({**means(), "code": types.SimpleNamespace(x=1)}, tmp_path / "code.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for file, words in {
        "half.pth": "1 are missing, for example 'stem.bias'",
        "wide.pth": "size mismatch",
        "list.pth": "not weights",
        "code.pth": "not weights",
        "text.safetensors": "not weights",
        "gone.pth": "no such file",
    }.items():
        with pytest.raises(InputError if file != "gone.pth" else OSError, match=words):
            extractor(f"map={tmp_path}/{file}").extract(PICTURE, FOUND)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="architecture"):
        extractor(tmp_path)
    torch.save(means(), tmp_path / "good.pth")
    with pytest.raises(ConfigError, match="not a map"):
        extractor(f"vector={tmp_path}/good.pth").extract(PICTURE, FOUND)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependency, match="pip install timm"):
        extractor("map").extract(PICTURE, FOUND)


@pytest.mark.parametrize(
    ("name", "width"), [("test_efficientnet", 256), ("test_vit", 64), ("test_convnext", 64)]
)
def test_small_networks_of_timm_itself(name, width, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    chosen = extractor(f"{name}={tmp_path}/w.pth")
    objects, unions = chosen.extract(PICTURE, FOUND)
    assert (objects.shape, unions.shape) == ((3, width), (1, width))
    assert np.isfinite(objects).all()
    # The features of a whole square image are the mean of all cells.
    square = LazyImage.from_pixels("square", np.concatenate([PIXELS, PIXELS[:, ::-1] // 2]))
    box = np.array([[0, 0, 64, 64]], np.float32)
    with torch.inference_mode():
        tensor, _ = chosen.loaded[1].prepare(square)
        wanted = network.forward_features(torch.from_numpy(tensor))[0]
        if name == "test_vit":  # class token first, then 10 x 10 patches
            wanted = wanted[-100:].T.reshape(width, 10, 10)
    found = Detections(box, ("all",), np.ones(1, np.float32), (64, 64))
    np.testing.assert_allclose(
        chosen.extract(square, found)[0][0], wanted.mean((1, 2)), rtol=1e-3, atol=1e-5
    )
    timm.models.save_for_hf(network, tmp_path / "folder", safe_serialization=True)
    again, _ = extractor(tmp_path / "folder").extract(PICTURE, FOUND)
    np.testing.assert_allclose(again, objects, atol=1e-5)
