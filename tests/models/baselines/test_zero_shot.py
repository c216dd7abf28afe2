"""Zero-shot CLIP, SigLIP and SigLIP 2 from tiny folders that transformers wrote."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import models
from features.errors import ConfigError, InputError, MismatchError, MissingInput
from models.configuration.config import from_dict
from models.evaluate import app
from models.evaluation.metrics import recall
from models.train import train

transformers = pytest.importorskip(
    "transformers", reason="optional: pip install 'scenestore[transformers]'"
)

TEXTS = ["A dog on the Beach", "two men and a dog", "one red ball"]
WORDS = ["[PAD]", "[UNK]", "a", "dog", "on", "the", "beach", "two", "men", "and", "one", "red"]
TEXT = {
    "vocab_size": 40, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 9,
}  # fmt: skip
VISION = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "patch_size": 4,
}  # fmt: skip


def tokenizer(folder):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(folder)


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def folder(request, tmp_path_factory):
    """A saved model of each family, with tokenizer and image processor."""
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "clip":
        config = transformers.CLIPConfig(
            text_config={**TEXT, "eos_token_id": 1, "pad_token_id": 0},
            vision_config={**VISION, "image_size": 8},
            projection_dim=6,
        )
        model = transformers.CLIPModel(config)
        size = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
        processor = transformers.CLIPImageProcessor(**size)
    elif request.param == "siglip":
        config = transformers.SiglipConfig(
            text_config=TEXT, vision_config={**VISION, "image_size": 8}
        )
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessor(size={"height": 8, "width": 8})
    else:
        config = transformers.Siglip2Config(
            text_config=TEXT, vision_config={**VISION, "num_patches": 4}
        )
        model = transformers.Siglip2Model(config)
        processor = transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=4)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    tokenizer(path)
    return path


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    names = []
    for number in range(3):
        name = f"photo{number}.png"
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / name)
        names.append(name)
    return tmp_path, names


def store_of(names):
    columns = {"caption": TEXTS, "image_file": names}
    return SimpleNamespace(column=lambda name: np.array(columns[name], object))


def by_hand(folder, path, names):
    """Return unit vectors of texts and photos, as the model's page computes them."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    if kind == "clip":
        words = tokens(TEXTS, padding=True, return_tensors="pt")
        words = {key: words[key] for key in ("input_ids", "attention_mask")}
    else:
        lower = [text.lower() for text in TEXTS]
        words = tokens(lower, padding="max_length", max_length=9, return_tensors="pt")
        words = {"input_ids": words["input_ids"]}
    images = [Image.open(path / name).convert("RGB") for name in names]
    with torch.inference_mode():
        texts = model.get_text_features(**words)
        pictures = model.get_image_features(**processor(images=images, return_tensors="pt"))
    found = (getattr(x, "pooler_output", x) for x in (pictures, texts))
    return [torch.nn.functional.normalize(x, dim=-1) for x in found]


def test_scores_are_those_of_the_two_towers(folder, photos, make_images, make_captions):
    path, names = photos
    model = models.create("clip", image_dim=16, captions=str(folder), photos=str(path)).eval()
    model.prepare(store_of(names), None)
    images = make_images(3).index(torch.tensor([2, 0, 1]))
    captions = make_captions(3).index(torch.tensor([1, 2]))
    codes = model.encode_images(images), model.encode_captions(captions)
    scores = model.score(*codes)
    pictures, texts = by_hand(folder, path, names)
    wanted = (pictures @ texts.T)[[2, 0, 1]][:, [1, 2]]
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(models.reference(model, *codes), scores, atol=1e-6, rtol=0)
    assert wanted.std() > 1e-4
    assert not model.state_dict()


def test_faults_say_what_to_do(folder, photos, tmp_path, make_images, make_captions):
    path, names = photos
    store = store_of(names)

    def attach(**options):
        model = models.create("clip", image_dim=16, **options)
        model.attach(store)
        return model

    with pytest.raises(MissingInput, match=r"nowhere: no such file or folder.*'photos'"):
        attach(captions=str(folder), photos=str(tmp_path / "nowhere"))
    for kind in ("bert", "clip"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(InputError, match="model_type is 'bert'"):
        attach(captions=str(tmp_path / "bert"))
    model = attach(captions=str(tmp_path / "clip"))
    with pytest.raises(InputError, match="AutoModel cannot load it"):
        model.encode_captions(make_captions(2))
    (path / names[1]).write_bytes(b"no photo")
    model = attach(captions=str(folder), photos=str(path))
    with pytest.raises(InputError, match=r"photo1\.png: cannot be read as a photo"):
        model.encode_images(make_images(3))
    (path / names[1]).unlink()
    with pytest.raises(MissingInput, match=r"photo1\.png: no such photo"):
        model.encode_images(make_images(3))
    np.save(tmp_path / "captions.npy", np.ones((3, 5)))
    with pytest.raises(ConfigError, match="whole photos need an image tower"):
        attach(captions=str(tmp_path / "captions.npy"), photos=str(path))
    np.save(tmp_path / "photos.npy", np.ones((3, 4)))
    both = {"captions": str(tmp_path / "captions.npy"), "photos": str(tmp_path / "photos.npy")}
    with pytest.raises(MismatchError, match=r"shape \(3, 5\).*vectors of width 4"):
        attach(**both)
    np.save(tmp_path / "photos.npy", np.ones((2, 5)))
    with pytest.raises(MismatchError, match=r"has the shape \(2, 5\), but the store has 3 images"):
        attach(**both)
    outside = store_of(["../a.png", *names[1:]])
    with pytest.raises(InputError, match="is no file name under"):
        models.create("clip", captions=str(folder), photos=str(path)).attach(outside)


@pytest.mark.parametrize("folder", ["clip"], indirect=True)
def test_a_run_is_evaluated_like_any_other(folder, tiny_store, tmp_path):
    store = tiny_store(images=24)
    rng = np.random.default_rng(1)
    for name in store.column("image_file"):
        (tmp_path / "photos" / str(name)).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / str(name), "PNG")
    options = {"captions": str(folder), "photos": str(tmp_path / "photos")}
    run = tmp_path / "run"
    tree = {
        "model": {"name": "clip", "options": options},
        "data": {"store": str(store.path)},
        "run": {"folder": str(run)},
    }
    assert train(from_dict(tree)) == 0
    out = tmp_path / "out.json"
    assert app.call([str(run), "--store", str(store.path), "--json", str(out)]) in (0, None)
    found = json.loads(out.read_text())["rows"][0]["metrics"]
    model = models.create("clip", **options).eval()
    model.attach(store)
    sims = models.score_all(model, store, "test").numpy()
    assert found == pytest.approx(dict(recall(sims, store.caption_image_rows("test"))))
