"""Zero-shot CLIP: cosines of stored vectors, and what goes wrong without them."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import models
from features.errors import (
    ConfigError,
    InputError,
    MismatchError,
    MissingDependency,
    MissingInput,
    TrainingError,
)

STORE = SimpleNamespace(column=lambda name: np.array(["a dog", "a cat", "two men"], object))


@pytest.fixture
def vectors(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float16)
    np.save(tmp_path / "captions.npy", values)
    return tmp_path / "captions.npy", values.astype(np.float64)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_scores_are_cosines(vectors, make_images, make_captions, pool):
    path, texts = vectors
    model = models.create("clip", image_dim=16, captions=str(path), pool=pool).eval()
    model.prepare(STORE, None)
    images, captions = make_images(4), make_captions(3).index(torch.tensor([2, 0]))
    codes = model.encode_images(images), model.encode_captions(captions)
    scores = model.score(*codes)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    for i in range(4):
        regions = images.objects[i][images.object_mask[i]].double().numpy()
        regions /= np.linalg.norm(regions, axis=1, keepdims=True)
        mean = regions.mean(0) / np.linalg.norm(regions.mean(0))
        for j, row in enumerate((2, 0)):
            expected = mean @ unit[row] if pool == "mean" else (regions @ unit[row]).max()
            assert scores[i, j].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(models.reference(model, *codes), scores, atol=1e-6, rtol=0)
    assert not model.state_dict()  # caption vectors belong to a store, not to a checkpoint


def test_faults_say_what_to_do(vectors, tmp_path, make_captions):
    path, _ = vectors
    with pytest.raises(ConfigError, match="'captions'"):
        models.create("clip", image_dim=16).prepare(STORE, None)
    with pytest.raises(MissingInput, match="nowhere"):
        models.create("clip", captions=str(tmp_path / "nowhere")).prepare(STORE, None)
    with pytest.raises(MismatchError, match=r"\(3, 16\).* of width 512"):
        models.create("clip", captions=str(path)).prepare(STORE, None)
    with pytest.raises(TrainingError, match="Call prepare"):
        models.create("clip").encode_captions(make_captions(2))
    for junk in (b"junk", b""):
        (tmp_path / "broken.npy").write_bytes(junk)
        with pytest.raises(InputError, match=r"broken\.npy"):
            models.create("clip", captions=str(tmp_path / "broken.npy")).prepare(STORE, None)
    values = np.load(path)
    values[1, 3] = np.nan
    np.save(path, values)
    with pytest.raises(InputError, match=r"captions\.npy: row 1 has a value that is not finite"):
        models.create("clip", image_dim=16, captions=str(path)).prepare(STORE, None)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is not None, reason="transformers is installed"
)
def test_a_folder_without_transformers_names_the_pip_command(tmp_path):
    with pytest.raises(MissingDependency, match="pip install 'transformers"):
        models.create("clip", captions=str(tmp_path)).prepare(STORE, None)
