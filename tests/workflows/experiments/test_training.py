"""Training and evaluation as Luigi tasks: real runs on a tiny store."""

import json

import pytest

from workflows.experiments.training import train_command

pytestmark = pytest.mark.cluster

SMALL = "--run.max_steps 2 --run.threads 1 --model.options.embed_dim 16 --model.options.word_dim 8"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "sgm.yaml"
    path.write_text("model: {name: sgm}\ndata: {batch_size: 16}\nrun: {epochs: 1}\n")
    return path


@pytest.fixture
def options(tiny_store, config, tmp_path):
    return {
        "--config": config,
        "--store": tiny_store(images=24).path,
        "--run-dir": tmp_path / "run",
        "--overrides": SMALL,
    }


def test_evaluation_trains_first_and_is_not_repeated(options, run_luigi, tmp_path):
    code, _, err = run_luigi("EvaluateModel", options)
    assert code == 0, err
    results = tmp_path / "run" / "evaluation-test.json"
    document = json.loads(results.read_text())
    assert document["split"] == "test"
    assert 0 <= document["rows"][0]["metrics"]["rsum"] <= 600
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert run_luigi("EvaluateModel", options)[0] == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    other = {**options, "--overrides": f"{SMALL} --optim.lr 0.5"}  # another run
    code, _, err = run_luigi("EvaluateModel", other)
    assert code != 0
    assert "optim.lr = 0.0002, now it is 0.5" in err


def test_other_options_are_another_run(options, run_luigi, tmp_path):
    assert run_luigi("TrainModel", options)[0] == 0
    key = json.loads((tmp_path / "run" / "trained.json").read_text())["key"]
    changed = {**options, "--overrides": f"{SMALL} --run.seed 1", "--run-dir": tmp_path / "other"}
    assert run_luigi("TrainModel", changed)[0] == 0
    assert json.loads((tmp_path / "other" / "trained.json").read_text())["key"] != key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--config": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"--store": "nowhere"}, "nowhere"),
        ({"--overrides": "--optim.ler 1"}, "ler"),
        ({"--overrides": "--run.folder x"}, "Use --run-dir or --store instead"),
    ],
)
def test_an_error_is_one_line(options, change, words, run_luigi):
    code, _, err = run_luigi("TrainModel", {**options, **change})
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 30
    assert words in lines[-1]
    assert "Traceback" not in err


def test_several_processes_go_through_torchrun():
    command = train_command("c.yaml", "st", "run", "--optim.lr 1e-4", 4)
    assert command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    assert command[-2:] == ["--optim.lr", "1e-4"]
