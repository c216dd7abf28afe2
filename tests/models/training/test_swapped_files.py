"""Run folders with files of another run, or without some: never another model's numbers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from features.errors import InputError, MismatchError, MissingInput, TrainingError
from features.store import open_store
from features.vocab import Codebook
from models.configuration.config import from_dict
from models.report import write_report
from models.train import train
from models.training import checkpoint, load_run
from models.training.logs import MetricsFile


@pytest.fixture
def start(tiny_store, tmp_path):
    """Return a function that trains a tiny model for an epoch and returns its configuration."""
    store = tiny_store(images=24)

    def run(name="run", **settings):
        tree = {
            "model": {"name": "vse", "options": {"embed_dim": 8, "word_dim": 8}},
            "data": {"store": str(store.path), "batch_size": 16},
            "run": {"folder": str(tmp_path / name), "epochs": 1, "threads": 1, **settings},
        }
        config = from_dict(tree)
        train(config)
        return config

    return run


def load(config):
    return load_run(Path(config.run.folder), open_store(config.data.store))


def put(path, source):
    path.unlink()
    shutil.copy(source, path)


def test_weights_of_another_seed_are_no_weights_of_this_run(start):
    one, other = start("one"), start("other", seed=1)
    folder = Path(one.run.folder)
    put(folder / "best.safetensors", Path(other.run.folder, "best.safetensors"))
    with pytest.raises(MismatchError, match=r"run\.seed = 1, but .*config\.yaml says 0"):
        load(one)
    with pytest.raises(MismatchError, match=r"best\.safetensors: not the best weights of"):
        train(one)
    put(folder / "config.yaml", Path(other.run.folder, "config.yaml"))
    put(folder / "last.pt", Path(other.run.folder, "last.pt"))
    load(one)  # all files of the other run: a copy of its folder


def test_another_codebook_is_noticed_where_words_become_numbers(start):
    config = start()
    path = Path(config.run.folder, "codebook.json")
    book = Codebook.load(path)
    first, *rest = book.words.names[4:]
    turned = (*book.words.names[:4], *rest, first)  # the same words and shapes
    words = dataclasses.replace(book.words, names=turned)
    path.unlink()
    dataclasses.replace(book, words=words).save(path)
    with pytest.raises(MismatchError, match="trained with another codebook than"):
        load(config)
    with pytest.raises(MismatchError, match="trained with another codebook than"):
        train(config)
    path.unlink()
    assert train(config) == 0  # made from the store again
    assert Codebook.load(path) == book
    load(config)


def test_lost_best_weights_are_not_reported_as_the_best(start, capsys):
    config = start()
    best = Path(config.run.folder, "best.safetensors")
    _, kept = checkpoint.load_best(best)
    best.unlink()
    assert train(config) == 0
    assert "best.safetensors is missing" in capsys.readouterr().err
    _, found = checkpoint.load_best(best)
    state = checkpoint.load_last(Path(config.run.folder, "last.pt"))
    assert found["step"] == state["position"]["best_step"] == state["position"]["step"]
    assert found["rsum"] == state["position"]["best"] <= kept["rsum"]


def test_a_run_that_goes_on_in_another_folder_takes_its_files_along(start, tmp_path):
    first = start("first")
    last = tmp_path / "first" / "last.pt"
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "results-test.json").write_text("{}")  # of what was here before
    second = start("second", resume=str(last))
    names = ("best.safetensors", "codebook.json", "metrics.csv")
    for name in names:
        here, there = tmp_path / "second" / name, tmp_path / "first" / name
        assert here.read_bytes() == there.read_bytes()
    assert not (tmp_path / "second" / "results-test.json").exists()
    one, other = load(first), load(second)
    assert one.codebook == other.codebook


def test_a_state_behind_a_broken_link_is_not_ignored(start, tmp_path):
    config = start()
    last = Path(config.run.folder, "last.pt")
    last.rename(tmp_path / "elsewhere")
    last.symlink_to(tmp_path / "not-mounted")
    with pytest.raises(MissingInput, match=r"last\.pt: no such checkpoint"):
        train(config)


def first(state, name, value):
    next(iter(state["optimizer"]["state"].values()))[name] = value


WRONG = {
    "no optimiser": lambda state: state.pop("optimizer"),
    "moments of another shape": lambda state: first(state, "exp_avg", torch.zeros(3)),
    "moments that are words": lambda state: first(state, "exp_avg", "many"),
    "one group of parameters less": lambda state: state["optimizer"]["param_groups"].pop(),
    "no random state": lambda state: state.update(rng=[{}]),
    "losses as text": lambda state: state.update(losses="low"),
    "a number as weights": lambda state: state["model"].update(dict.fromkeys(state["model"], 3)),
    "keys in a list": lambda state: state.update(keys=["a"]),
    "a negative step": lambda state: state["position"].update(step=-1),
    "a step of another epoch": lambda state: state["position"].update(step=10**9),
    "half a batch": lambda state: state["position"].update(pairs=7),
    "NaN as best rsum": lambda state: state["position"].update(best=float("nan")),
    "another position": lambda state: state.update(position={"pages": 3}),
}


def test_a_sealed_state_with_other_contents_is_refused(start):
    config = start()
    path = Path(config.run.folder, "last.pt")
    for change in WRONG.values():
        state = checkpoint.load_last(path)
        change(state)
        checkpoint.save_last(path.with_name("wrong.pt"), state)
        other = config.model_copy(
            update={
                "run": config.run.model_copy(update={"resume": str(path.with_name("wrong.pt"))})
            }
        )
        with pytest.raises((TrainingError, ValueError), match=r"wrong\.pt: not a"):
            train(other)


class Weights(torch.nn.Module):
    """Weights from a file, to write them again."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def state_dict(self):
        return self.weights


def test_weights_without_what_is_needed_to_use_them(start):
    config = start()
    path = Path(config.run.folder, "best.safetensors")
    weights, about = checkpoint.load_best(path)
    for name in ("config", "options", "keys"):
        checkpoint.save_best(path, Weights(weights), {**about, name: None})
        with pytest.raises(TrainingError, match=rf"best\.safetensors: .*'{name}' is missing"):
            load(config)
    name = next(iter(weights))
    weights[name].view(-1)[0] = float("nan")
    checkpoint.save_best(path, Weights(weights), about)
    with pytest.raises(TrainingError, match=rf"best\.safetensors: {name} is not finite"):
        load(config)


def test_a_log_that_is_no_text(start, tmp_path):
    config = start()
    path = Path(config.run.folder, "metrics.csv")
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(InputError, match=r"metrics\.csv: damaged"):
        MetricsFile(path, 3)
    with pytest.raises(InputError, match=r"metrics\.csv: damaged"):
        write_report(tmp_path / "page.html", open_store(config.data.store), [path.parent])
    assert not (tmp_path / "page.html").exists()
