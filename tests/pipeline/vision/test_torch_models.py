"""Optional networks: messages for missing packages, and tiny models of installed ones."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from features.errors import InputError, MissingDependency, MissingInput, UsageError
from features.records import Detections
from pipeline.detect import create_detector
from pipeline.vision.extraction import create_extractor
from pipeline.vision.images import LazyImage

PICTURE = LazyImage.from_pixels(
    "x", np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
)
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
def test_missing_packages_have_an_install_command(package, make, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=f"pip install {package}"):
        make()


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


def tiny_tokenizer(transformers, folder):
    """Return CLIP's tokenizer with letters and five words."""
    letters = sorted(set("aphotofcatdogred"))
    vocab, merges = [*letters, *[f"{letter}</w>" for letter in letters]], []
    for word in ("photo", "of", "cat", "dog", "red"):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(" ".join(parts[:2]))
            parts[:2] = ["".join(parts[:2])]
            vocab.append(parts[0])
    vocab = list(dict.fromkeys([*vocab, "<|startoftext|>", "<|endoftext|>"]))
    (folder / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(vocab)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=16), len(vocab)


@pytest.mark.parametrize("kind", ["OwlViT", "Owlv2"])
def test_open_vocabulary_detectors(transformers, tmp_path, kind):
    import torch

    torch.manual_seed(0)
    tokenizer, words = tiny_tokenizer(transformers, tmp_path)
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **small,
            "vocab_size": words,
            "max_position_embeddings": 16,
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            "pad_token_id": 0,
        },
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    folder = tmp_path / kind
    network = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    network.save_pretrained(folder)
    looks = getattr(transformers, f"{kind}ImageProcessor")(size={"height": 64, "width": 64})
    getattr(transformers, f"{kind}Processor")(looks, tokenizer).save_pretrained(folder)
    detector = create_detector("transformers", path=f"{folder}=cat,dog,red dog", min_score=0.0)
    found = detector.detect(PICTURE)
    assert found.size == (90, 60)
    assert set(found.labels) <= {"cat", "dog", "red dog"}
    assert len(set(found.labels)) > 1

    # Compare with the network's raw outputs: the best query of a patch, centre and size.
    prompts = ["a photo of a cat", "a photo of a dog", "a photo of a red dog"]
    processor = transformers.AutoProcessor.from_pretrained(folder)
    image = Image.fromarray(PICTURE.rgb())
    inputs = processor(text=[prompts], images=image, return_tensors="pt")
    with torch.inference_mode():
        raw = network(**inputs)
    logits, boxes = raw.logits[0].numpy(), raw.pred_boxes[0].numpy()
    sides = np.array([90, 60, 90, 60]) if kind == "OwlViT" else 90  # OWLv2 pads to a square
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners = np.clip(corners * sides, 0, [90, 60, 90, 60])
    scores = 1 / (1 + np.exp(-logits.max(1)))
    names = np.array(["cat", "dog", "red dog"])[logits.argmax(1)]
    wanted = sorted(
        (-score, name, *np.round(box, 2))
        for score, name, box in zip(scores, names, corners, strict=True)
        if (box[2:] > box[:2]).all()
    )
    got = zip(found.scores, found.labels, found.boxes, strict=True)
    got = sorted((-score, name, *np.round(box, 2)) for score, name, box in got)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one[1] == other[1]
        np.testing.assert_allclose([one[0], *one[2:]], [other[0], *other[2:]], atol=0.02)
    keys = {json.dumps(detector.identity(), sort_keys=True)}
    for queries in ("cat,dog", "dog,cat,red dog"):
        other = create_detector("transformers", path=f"{folder}={queries}", min_score=0.0)
        keys.add(json.dumps(other.identity(), sort_keys=True))
    assert len(keys) == 3
    with pytest.raises(UsageError, match="labels to look for"):
        create_detector("transformers", path=folder).detect(PICTURE)
    with pytest.raises(UsageError, match="16 are the limit"):
        create_detector("transformers", path=f"{folder}=cat,{'dog ' * 30}").detect(PICTURE)


def test_queries_from_a_string_a_file_or_a_list(tmp_path):
    (tmp_path / "labels.txt").write_text("man\nfire hydrant\n\n")
    (tmp_path / "a=b").mkdir()
    for given, queries in {
        "google/owlvit=man, fire hydrant": ("man", "fire hydrant"),
        f"google/owlvit={tmp_path}/labels.txt": ("man", "fire hydrant"),
        "google/owlvit": (),
        f"{tmp_path}/a=b": (),  # an existing folder
    }.items():
        detector = create_detector("transformers", path=given)
        assert detector.queries == queries
        assert detector.path == (given if not queries else "google/owlvit")
    listed = create_detector("transformers", path="google/owlvit", queries=["man", "hat"])
    assert listed.queries == ("man", "hat")
    assert listed.identity()["queries"] == ["man", "hat"]
    assert "queries" not in create_detector("transformers", path="x").identity()
    with pytest.raises(UsageError, match="twice"):
        create_detector("transformers", path="x=man,hat,man")
    with pytest.raises(MissingInput, match=r"no\.txt"):
        create_detector("transformers", path="x=no.txt")


@pytest.fixture
def owl(monkeypatch):
    """Replace transformers; return which parts were loaded and the input of the network."""
    import torch

    class Inputs(dict):
        pass

    class Tokenizer:
        def __call__(self, prompts):
            return {"input_ids": [[0] * len(prompt.split()) for prompt in prompts]}

    class Processor:
        tokenizer = Tokenizer()

        def __init__(self):
            self.image_processor = self

        def __call__(self, text=None, images=None, return_tensors=""):
            assert (text is None) != (images is None)
            if images is None:
                return Inputs(input_ids=torch.tensor([[len(prompt)] for prompt in text[0]]))
            return Inputs(pixel_values=torch.tensor([[images.width, images.height]]))

        def post_process_object_detection(self, outputs, threshold, target_sizes):
            assert target_sizes.tolist() == [[60, 90]]
            return [{**outputs, "scores": torch.tensor([0.2, 0.9])}]

    class Network:
        config = types.SimpleNamespace(id2label={0: "own", 1: "other"})

        def eval(self):
            return self

        def __call__(self, pixel_values, input_ids=None):
            seen.append(None if input_ids is None else input_ids.reshape(-1).tolist())
            boxes = torch.tensor([[0.0, 0, 40, 50], [10, 10, 200, 55]])
            return {"boxes": boxes, "labels": torch.tensor([1, 0])}

    seen = []
    text = types.SimpleNamespace(max_position_embeddings=7)
    package = types.ModuleType("transformers")

    def kind(make):
        return types.SimpleNamespace(from_pretrained=make)

    package.AutoConfig = kind(lambda path: types.SimpleNamespace(model_type=path, text_config=text))
    package.AutoProcessor = package.AutoImageProcessor = kind(lambda path: Processor())
    package.AutoModelForObjectDetection = kind(lambda path: Network())
    package.AutoModelForZeroShotObjectDetection = kind(lambda path: Network())
    monkeypatch.setitem(sys.modules, "transformers", package)
    return seen


def test_queries_are_network_input_and_labels(owl):
    found = create_detector("transformers", path="owlv2=hat,fire hydrant").detect(PICTURE)
    assert owl == [[len("a photo of a hat"), len("a photo of a fire hydrant")]]
    assert found.labels == ("hat", "fire hydrant")
    np.testing.assert_array_equal(found.boxes, [[10, 10, 90, 55], [0, 0, 40, 50]])
    assert create_detector("transformers", path="detr").detect(PICTURE).labels == ("own", "other")
    assert owl[1:] == [None]
    for path, words in {
        "owlvit": "labels to look for",
        "detr=hat": "fixed classes",
        "owlvit=hat,a very long query indeed": "9 tokens",
    }.items():
        with pytest.raises(UsageError, match=words):
            create_detector("transformers", path=path).detect(PICTURE)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_image_encoders(transformers, tmp_path, kind):
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
    """Replace torchvision by a module with one detector, so that the test runs anywhere."""
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
