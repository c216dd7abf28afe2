"""Exported embeddings give the model's own scores, with and without an index."""

from __future__ import annotations

import numpy as np
import pytest

import models
from features.errors import UsageError
from models import export
from models.configuration.config import from_dict
from models.train import train
from models.training.run import load_run


@pytest.fixture
def trained(tiny_store, tmp_path):
    store = tiny_store(images=24)

    def run(model):
        tree = {
            "model": {"name": model, "options": {"embed_dim": 16, "word_dim": 8}},
            "data": {"store": str(store.path), "batch_size": 32},
            "run": {"folder": str(tmp_path / model), "max_steps": 2},
        }
        train(from_dict(tree))
        return store, tmp_path / model

    return run


@pytest.mark.parametrize("model", ["vse", "hrem"])
def test_dot_products_of_the_files_are_the_scores(trained, tmp_path, model, capsys):
    faiss = pytest.importorskip("faiss")
    store, folder = trained(model)
    out = tmp_path / "out"
    words = [str(folder), "--store", str(store.path), "--out", str(out), "--faiss"]
    assert export.app.call(words) == 0
    assert "8 images and 40 captions, 16 numbers each" in capsys.readouterr().out
    images, captions = np.load(out / "images.npy"), np.load(out / "captions.npy")
    run = load_run(folder, store)
    sims = models.score_all(run.model, store, "test", run.codebook).numpy()
    np.testing.assert_allclose(images @ captions.T, sims, atol=1e-5)
    ids = (out / "captions.txt").read_text().splitlines()
    assert ids == store.captions[store.captions.split == "test"].id.tolist()
    index = faiss.read_index(str(out / "captions.faiss"))
    scores, places = index.search(images, 3)
    np.testing.assert_allclose(scores, np.sort(sims, 1)[:, ::-1][:, :3], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(sims, places, 1), scores, atol=1e-5)


def test_a_model_without_one_vector_per_item_cannot_be_exported(trained, tmp_path):
    store, folder = trained("sgm")
    words = [str(folder), "--store", str(store.path), "--out", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="sgm compares parts"):
        export.app.call(words)
    assert not (tmp_path / "out").exists()
