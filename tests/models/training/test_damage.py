"""Checkpoints with flipped bits: refused, never trained on or evaluated."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from features.errors import ScenestoreError, TrainingError
from models.training import checkpoint

STATE = {"model": {"w": torch.arange(50.0)}, "position": {"step": 3}, "keys": {"a": "b"}}


def flipped(path, at, bit=0):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(raw)


def damage(path, load, seed):
    """Flip one bit at a time; return the outcomes that are neither an error nor the same."""
    whole, expected = path.read_bytes(), load(path)
    draw, silent = np.random.default_rng(seed), []
    for at in draw.integers(0, len(whole), 250):
        flipped(path, at, int(draw.integers(8)))
        try:
            found = load(path)
        except ScenestoreError as error:
            found = expected if str(path) in str(error) else None
        if found != expected:
            silent.append(at)
        path.write_bytes(whole)
    return silent


def test_every_flipped_bit_of_a_training_state_is_found(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save_last(path, STATE)
    assert torch.load(path, weights_only=True)["position"] == {"step": 3}  # torch reads it too

    def load(path):
        state = checkpoint.load_last(path)
        return state["model"]["w"].tolist(), state["position"], state["keys"]

    assert load(path) == (STATE["model"]["w"].tolist(), {"step": 3}, {"a": "b"})
    assert damage(path, load, 0) == []


def test_a_training_state_without_a_hash_is_read_and_its_checksums_compared(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"format": 1, **STATE}, path)
    assert checkpoint.load_last(path)["position"] == {"step": 3}
    at = path.read_bytes().index(np.float32(49).tobytes())
    flipped(path, at)
    with pytest.raises(TrainingError, match=r"last\.pt: the bytes differ"):
        checkpoint.load_last(path)
    checkpoint.save_last(path, STATE)
    flipped(path, -1)  # in the hash itself
    with pytest.raises(TrainingError, match="the bytes differ"):
        checkpoint.load_last(path)


def test_every_flipped_bit_of_the_best_weights_is_found(tmp_path):
    path = tmp_path / "best.safetensors"
    model = torch.nn.Linear(7, 5)
    checkpoint.save_best(path, model, {"config": {"seed": 1}, "step": 3})

    def load(path):
        weights, metadata = checkpoint.load_best(path)
        return {name: value.tolist() for name, value in weights.items()}, metadata

    assert damage(path, load, 1) == []


def test_best_weights_without_a_hash_are_read(tmp_path):
    path = tmp_path / "best.safetensors"
    save_file({"w": torch.ones(3)}, path, metadata={"format": "pt", "scenestore": json.dumps({})})
    assert checkpoint.load_best(path)[0]["w"].tolist() == [1, 1, 1]
