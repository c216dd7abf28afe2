"""Checkpoints, optimiser groups, schedules and averaged weights."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from features.errors import ConfigError, MismatchError, MissingInput, TrainingError, WriteError
from features.format import files
from models.configuration.config import OptimConfig, ScheduleConfig
from models.training import checkpoint
from models.training.optim import (
    load_average,
    make_average,
    make_optimizer,
    rate_factor,
    set_rate,
)

CPU = torch.device("cpu")


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_best_weights_and_metadata_round_trip(tmp_path):
    model = small_model()
    model[2].weight = nn.Parameter(model[0].weight[:2, :].repeat(1, 2)[:, :4])
    about = {"config": {"model": {"name": "x"}}, "keys": {"store": "é"}, "rsum": 1.5}
    checkpoint.save_best(tmp_path / "best.safetensors", model, about)
    weights, metadata = checkpoint.load_best(tmp_path / "best.safetensors")
    assert metadata == about
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    checkpoint.save_best(tmp_path / "b", model, {})
    weights, _ = checkpoint.load_best(tmp_path / "b")
    checkpoint.load_weights(model, weights, "b")
    assert torch.equal(weights["0.weight"], weights["1.weight"])


def test_a_failed_write_keeps_the_earlier_file_and_leaves_no_partial_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save_last(path, {"step": 1})

    def full(partial, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "publish", full)
    with pytest.raises(WriteError, match="No space left on device"):
        checkpoint.save_last(path, {"step": 2})
    assert checkpoint.load_last(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MissingInput, match="no such checkpoint"):
        checkpoint.load_last(tmp_path / "no.pt")
    with pytest.raises(MissingInput, match="no such file"):
        checkpoint.load_best(tmp_path / "no.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(TrainingError, match="not a usable checkpoint"):
        checkpoint.load_last(tmp_path / "text")
    with pytest.raises(TrainingError, match=r"not written by models\.train"):
        checkpoint.load_best(tmp_path / "text")
    torch.save({"format": 99}, tmp_path / "new.pt")
    with pytest.raises(TrainingError, match="format 99, but this version reads format 1"):
        checkpoint.load_last(tmp_path / "new.pt")


def test_pickled_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    torch.save({"format": 1, "x": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(TrainingError, match="not a usable checkpoint"):
        checkpoint.load_last(tmp_path / "bomb.pt")
    assert not (tmp_path / "boom").exists()


def test_mismatched_weights_are_named():
    model = small_model()
    weights = dict(model.state_dict())
    weights["extra"] = weights.pop("0.bias")
    weights["2.weight"] = torch.zeros(5, 4)
    with pytest.raises(MismatchError) as caught:
        checkpoint.load_weights(model, weights, "run")
    said = str(caught.value)
    assert "missing 0.bias" in said
    assert "unknown extra" in said
    assert "2.weight (5, 4) instead of (2, 4)" in said


def test_random_generators_are_restored(tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    np.random.randn()  # keeps a second gaussian for later
    random.gauss(0, 1)
    checkpoint.save_last(tmp_path / "s.pt", {"rng": checkpoint.rng_state(CPU)})
    expected = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]
    expected += [torch.rand(3).tolist(), torch.randn(3).tolist()]
    checkpoint.set_rng_state(checkpoint.load_last(tmp_path / "s.pt")["rng"], CPU)
    again = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]
    again += [torch.rand(3).tolist(), torch.randn(3).tolist()]
    assert again == expected


def test_each_prefix_has_its_own_learning_rate():
    model = small_model()
    config = OptimConfig(lr=0.5, lr_scale={"0": 0.1, "0.bias": 0.01})
    optimizer = make_optimizer(model, config)
    set_rate(optimizer, 0.2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model[0].weight)] == pytest.approx(0.02)
    assert rates[id(model[0].bias)] == pytest.approx(0.002)
    assert rates[id(model[2].weight)] == pytest.approx(0.2)
    assert len(rates) == len(list(model.parameters()))
    with pytest.raises(ConfigError, match="no parameter starts with '9'"):
        make_optimizer(model, OptimConfig(lr_scale={"9": 1.0}))


def test_the_step_schedule_decreases_at_its_milestones():
    config = ScheduleConfig(name="step", milestones=(15, 25), gamma=0.1)
    factors = [rate_factor(config, epoch * 7, 7, 210) for epoch in range(30)]
    assert factors == pytest.approx([1.0] * 15 + [0.1] * 10 + [0.01] * 5)
    assert rate_factor(config, 15 * 7 - 1, 7, 210) == 1


def test_warm_up_grows_and_the_cosine_ends_at_its_floor():
    config = ScheduleConfig(name="cosine", warmup_steps=10, floor=0.1)
    factors = [rate_factor(config, step, 10, 110) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[60] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[35] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    constant = ScheduleConfig(name="constant", warmup_steps=2)
    assert [rate_factor(constant, s, 1, 9) for s in range(4)] == [0.5, 1, 1, 1]


def test_averaged_weights_follow_the_recursion():
    model = small_model()
    average = make_average(model, 0.8)
    expected = model[0].weight.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            model[0].weight += 0.1
        model[1].num_batches_tracked += 1
        average.update_parameters(model)
        decay = min(0.8, step / (step + 10))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight.detach(), expected)
    assert not torch.equal(model[0].weight, average.module[0].weight)
    assert average.module[1].num_batches_tracked == 59
    other = make_average(small_model(), 0.8)
    load_average(other, average.state_dict())
    assert torch.equal(other.module[0].weight, average.module[0].weight)
    assert other.n_averaged == average.n_averaged


def test_averages_of_earlier_checkpoints_are_read():
    average = make_average(small_model(), 0.8)
    floats = {n: torch.ones_like(v) for n, v in small_model().state_dict().items() if v.dim()}
    load_average(average, {"steps": 59, "average": floats})
    assert torch.equal(average.module[1].running_var, torch.ones(4))
    assert average.n_averaged == 60  # the next update is number 60
