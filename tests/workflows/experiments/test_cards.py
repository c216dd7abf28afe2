"""Reproducibility cards: written by a comparison, verified by training again."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
import sys

import pytest

from features import plugins
from features.errors import ConfigError, InputError, MissingInput, UnknownName, UsageError
from models.configuration.files import load
from models.evaluate import evaluate
from models.train import STOPPED, train
from models.verify import app, read_card
from scenestore.program import call
from workflows.experiments.cards import as_lines, make_card
from workflows.experiments.compare import CompareModels
from workflows.experiments.published import all_rows, select

SMALL = {
    "model.options.embed_dim": 16,
    "model.options.word_dim": 8,
    "data.batch_size": 8,
    "run.max_steps": 2,
    "run.threads": 1,
    "run.device": "cpu",
}


def evaluation(seed, rsum, ends, libraries=None, **config):
    """Return results of ``models.evaluate`` with what a card reads."""
    run = {"seed": seed, "folder": f"runs/{seed}", "deterministic": False, **config}
    tree = {"model": {"name": "sgm", "options": {"margin": 0.3}}, "data": {"store": "st"}}
    options = {"margin": 0.3, "embed_dim": 1024, "vocab_size": 99, "word_dim": 300}
    about = {"config": {**tree, "run": run}, "options": options}
    about |= {"libraries": libraries or {"torch": "2.13.0"}}
    last = {"metrics": {"rsum": rsum}, "intervals": {"rsum": ends}}
    return {
        "split": "test", "images": 1000, "captions": 5000, "fold5": False, "precision": "float32",
        "rerank_top": 0, "runs": [about], "rows": [{"metrics": {}}, last], "device": "cpu",
        "libraries": {"torch": "2.14.1"},
    }  # fmt: skip


def made(*found):
    manifest = {"key": "a" * 64, "hash": "b" * 64}
    return make_card("row", found, store="st", manifest=manifest, command="scenestore compare")


@pytest.fixture
def without_plugins(monkeypatch):
    """Plug-ins that other tests have registered in this process are not seen."""
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    monkeypatch.setattr(plugins, "_modules", {})


def test_the_interval_covers_the_images_and_the_seeds():
    one = made(evaluation(0, 400.0, [390.0, 409.0]))
    assert one["rsum"] == {
        "value": 400.0, "low": 390.0, "high": 409.0, "lowest_seed": 400.0, "highest_seed": 400.0,
        "deviation": None,
    }  # fmt: skip
    two = made(evaluation(0, 400.0, [390.0, 409.0]), evaluation(1, 410.0, [401.0, 418.0]))
    assert [two["rsum"][key] for key in ("value", "low", "high")] == [405.0, 390.0, 418.0]
    assert two["rsum"]["deviation"] == pytest.approx(50**0.5)
    assert [one["seed"] for one in two["results"]] == [0, 1]


def test_a_configuration_has_its_hash_whatever_the_seed_and_the_place():
    (one,), (other,) = (
        made(evaluation(seed, 1.0, [], tensorboard=bool(seed)))["trainings"] for seed in (0, 7)
    )
    assert one == other
    assert one["config"]["model"]["options"] == {
        "margin": 0.3,
        "embed_dim": 1024,
    }  # no sizes of data
    assert "store" not in one["config"]["data"]
    (changed,) = made(evaluation(0, 1.0, [], epochs=9))["trainings"]
    assert changed["configuration"] != one["configuration"]


def test_the_libraries_of_all_trainings_are_listed():
    found = evaluation(0, 1.0, []), evaluation(1, 1.0, [], {"torch": "2.4.0"})
    card = made(*found)
    assert card["libraries"]["training"] == {"torch": "2.13.0, 2.4.0"}
    assert card["libraries"]["evaluation"] == {"torch": "2.14.1"}
    for document in found:
        del document["libraries"], document["device"], document["runs"][0]["libraries"]
    old = made(*found)  # results of an earlier release
    assert (old["libraries"]["training"], old["device"]) == ({}, "not recorded")
    assert "- libraries: not recorded; not recorded" in as_lines(old, "row.json")


def test_the_table_folds_the_card():
    card = made(evaluation(0, 400.0, [390.0, 409.0]), evaluation(1, 410.0, [401.0, 418.0]))
    text = "\n".join(as_lines(card, "cards/row.json"))
    for part in (
        "<details>", f"key {'a' * 64}", card["trainings"][0]["configuration"][:12],
        "- seeds: 0, 1; rSum 405.0, 400.0 to 410.0, standard deviation 7.1; interval 390.0 to",
        "- libraries: torch 2.13.0; cpu", "- again: `scenestore compare`",
        "- verify: `scenestore verify-result cards/row.json`",
    ):  # fmt: skip
        assert part in text, part


def test_the_command_of_a_row_means_this_row_alone(without_plugins):
    for row in (row for row in all_rows() if row.runs):
        task = CompareModels(store="st", benchmark=row.benchmark, papers=row.name)
        words = shlex.split(task.command(row))
        assert words[:2] == ["scenestore", "compare"]
        given = dict(zip(words[2::2], words[3::2], strict=True))
        assert select(given["--papers"], given["--benchmark"]) == [row]
    task = CompareModels(
        store="a b",
        split="val",
        seeds=3,
        overrides="--optim.lr 1",
        rerank_top=9,
        whole=True,
        out="o",
    )
    said = task.command(row)
    assert "--store 'a b' --split val --seeds 3 --overrides '--optim.lr 1' --rerank-top 9" in said
    assert said.endswith(" --whole --out o-again")


# Verification


@pytest.fixture
def ensemble(tiny_store, tmp_path):
    """Train and evaluate a row of two runs and two seeds; return the store and the card's file."""
    store = tiny_store(images=24)
    found = []
    for seed in (0, 1):
        runs = [tmp_path / f"{name}-{seed}" for name in ("vse", "scan")]
        for run in runs:
            options = {"data.store": store.path, "run.folder": run, "run.seed": seed, **SMALL}
            words = [f"--{key}={value}" for key, value in options.items()]
            train(load(f"{run.name[:-2]}_f30k", words))
        evaluate(runs, str(store.path), json=tmp_path / "found.json", rerank=True, rerank_top=4)
        found.append(json.loads((tmp_path / "found.json").read_text()))
    card = make_card(
        "both", found, store=str(store.path), manifest=store.manifest, command="scenestore compare"
    )
    path = tmp_path / "both.json"
    path.write_text(json.dumps(card))
    return store, path, card


def test_a_row_is_verified_by_training_it_again(ensemble, tiny_store, tmp_path, capsys):
    _, path, card = ensemble
    assert len(card["trainings"]) == 2
    assert {"python", "torch", "numpy", "h5py"} <= set(card["libraries"]["training"])
    capsys.readouterr()
    assert call(["verify-result", str(path)]) == 0
    said = capsys.readouterr().out
    assert "both, seeds 0, 1:" in said
    assert "all numbers are identical to those of the card" in said
    folder = tmp_path / "both-again"
    verdict = json.loads((folder / "verdict-both.json").read_text())
    assert verdict["inside"] is True
    assert [one["metrics"] for one in verdict["results"]] == [
        one["metrics"] for one in card["results"]
    ]
    runs = {one.name: load(one / "config.yaml") for one in folder.iterdir() if one.is_dir()}
    assert {name: run.run.seed for name, run in runs.items()} == {
        "both-0-seed0": 0, "both-1-seed0": 0, "both-0-seed1": 1, "both-1-seed1": 1,
    }  # fmt: skip

    # a second verification trains again; a number that no training gives
    weights = folder / "both-0-seed0" / "best.safetensors"
    before = weights.stat().st_mtime_ns
    for key in ("value", "low", "high"):
        card["rsum"][key] += 400
    card["libraries"]["training"]["torch"] = "1.0"
    path.write_text(json.dumps(card))
    assert app.call([str(path), "--seeds", "1"]) == 1
    said = capsys.readouterr().out
    assert "is OUTSIDE of the interval" in said
    assert ", the card 1.0" in said
    assert weights.stat().st_mtime_ns != before

    # another store with as many images
    other = tiny_store(images=24, seed=1)
    with pytest.raises(UsageError, match=r"made on a store with key \w{12}, but .* has \w{12}"):
        app.call([str(path), "--store", str(other.path)])


def test_a_verification_that_was_stopped_continues(tiny_store, tmp_path, monkeypatch):
    store, found = tiny_store(), evaluation(0, 1.0, [])
    found["runs"] *= 2
    command = "scenestore compare"
    card = make_card(
        "both", [found], store=str(store.path), manifest=store.manifest, command=command
    )
    path = tmp_path / "both.json"
    path.write_text(json.dumps(card))
    codes = iter([0, STOPPED])
    monkeypatch.setattr("models.verify.train", lambda config: next(codes))
    assert app.call([str(path)]) == STOPPED
    seen = []
    monkeypatch.setattr("models.verify.train", lambda config: seen.append(config) or STOPPED)
    assert app.call([str(path)]) == STOPPED
    assert seen[0].run.resume == "auto"
    (tmp_path / "both-again").mkdir(exist_ok=True)
    (tmp_path / "both-again" / "verdict-both.json").write_text("{}")
    app.call([str(path), "--device", "cpu"])
    assert (seen[1].run.resume, seen[1].run.device) == ("never", "cpu")


def test_the_command_has_its_printed_name(tmp_path):
    command = [sys.executable, "-m", "models.verify-result", str(tmp_path / "gone.json")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert "gone.json: cannot be read" in found.stderr


def test_files_that_are_no_cards(tmp_path, without_plugins):
    card = made(evaluation(0, 1.0, [0.0, 2.0]))
    path = tmp_path / "card.json"

    def refused(content, error, words):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(error, match=words):
            read_card(path)

    with pytest.raises(MissingInput, match="Check the path"):
        read_card(path)
    refused("{", InputError, "is not JSON")
    refused([], InputError, "is not a reproducibility card")
    refused({"rows": [{"name": "a"}]}, InputError, "has no reproducibility cards")
    refused({**card, "card": 2}, InputError, "version 2, this release reads 1")
    refused({**card, "rsum": 3}, ConfigError, "rsum")
    edited = copy.deepcopy(card)
    edited["trainings"][0]["config"]["run"]["deterministic"] = True
    refused(edited, InputError, "does not have this hash any more")
    rows = [{"name": name, "card": card} for name in ("one", "two")]
    path.write_text(json.dumps({"rows": rows}))
    assert read_card(path, "two").row == "row"
    with pytest.raises(UsageError, match=r"has 2 rows\. Pass --row, one of one, two"):
        read_card(path)
    with pytest.raises(UnknownName, match="unknown row 'three'"):
        read_card(path, "three")
    plugged = {**card, "plugins": "lab.models"}
    path.write_text(json.dumps(plugged))
    with pytest.raises(UsageError, match=r"needs plug-ins\. Pass --plugins lab\.models"):
        app.call([str(path)])
