"""Training on a CUDA device: the default precision, exact resume, scores of the CPU."""

from __future__ import annotations

import pytest
import torch

from features.store import open_store
from models.compute import World
from models.configuration.config import from_dict
from models.evaluation.scoring import score_split
from models.train import train
from models.training import load_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
MODELS = {
    "sgm": {},
    "gsmn": {},
    "racg": {"heads": 4, "position_dim": 8, "text_encoder": "gru"},
    "hrem": {"heads": 4, "text_encoder": "gru", "warm_up": 0},
    "cfsgr": {},
    "scan": {},
    "vse": {},
}


@pytest.fixture
def configure(tiny_store, tmp_path):
    """Return a maker of configurations of two epochs on one tiny store."""
    store = tiny_store(images=24)

    def make(name, folder, **run):
        options = {"embed_dim": 32, "word_dim": 8, **MODELS[name]}
        return from_dict(
            {
                "model": {"name": name, "options": options},
                "data": {"store": str(store.path), "batch_size": 16},
                "run": {"epochs": 2, "device": "cuda", "folder": str(tmp_path / folder), **run},
            }
        )

    return make


@pytest.mark.parametrize("amp", ["auto", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_in_mixed_precision(name, amp, configure, tmp_path):
    config = configure(name, "run", amp=amp)
    train(config)
    store = open_store(config.data.store)
    on_cpu, on_cuda = (
        score_split(run.model, store, "val", run.codebook, World(), device=torch.device(device))
        for device in ("cpu", "cuda")
        for run in [load_run(tmp_path / "run", store, device=device)]
    )
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=1e-4, rtol=0)


def test_a_resumed_run_has_the_weights_of_a_whole_one(configure, tmp_path):
    same = {"deterministic": True, "amp": "none"}
    train(configure("sgm", "whole", **same))
    train(configure("sgm", "parts", **same, max_steps=3))
    train(configure("sgm", "parts", **same))
    one, other = (
        torch.load(tmp_path / folder / "last.pt", weights_only=False)["model"]
        for folder in ("whole", "parts")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
