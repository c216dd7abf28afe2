"""Two gloo ranks train like one process: equal losses, equal weights, each pair once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from models import evaluate
from models.compute.distributed import Exchange, World, gather_rows
from models.configuration.config import from_dict, to_yaml
from models.train import train
from models.training import checkpoint

REPOSITORY = Path(__file__).resolve().parents[3]


def torchrun(path, ranks, *words):
    """Return a training under torchrun, as a command."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc_per_node", str(ranks), "-m", "models.train", str(path), *words]


def run_all(commands, worlds):
    """Run commands side by side, one thread each; return what they print. None may fail."""
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **world},
        )
        for command, world in zip(commands, worlds, strict=True)
    ]
    try:
        said = [process.communicate(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, said, strict=True):
        assert process.returncode == 0, err[-3000:]
    return "".join(out for out, _ in said)


@pytest.fixture
def launch(rank_env):
    """Return a function that runs a command as ranks, in the environment that torchrun makes."""

    def run(path, ranks, *words, module="models.train"):
        command = [sys.executable, "-m", module, str(path), *words]
        return run_all([command] * ranks, rank_env(ranks))

    return run


def losses_of(folder):
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["kind"] == "train"]


@pytest.fixture
def configure(tiny_store, tmp_path):
    store = tiny_store(images=36)  # 85 pairs of train: 5 whole batches and one of 5, 3 + 2

    def make(model, folder, **run):
        # blocks of one number would make every cosine a sign
        options = {"embed_dim": 64, "blocks": 4} if model == "gsmn" else {"embed_dim": 16}
        config = from_dict(
            {
                "model": {"name": model, "options": {"word_dim": 8, **options}},
                "data": {"store": str(store.path), "train": "train[:17]", "batch_size": 16},
                "optim": {"lr": 2e-4},
                "run": {
                    "max_steps": 20,
                    "log_steps": 1,
                    "deterministic": True,
                    "folder": str(tmp_path / folder),
                    **run,
                },
            }
        )
        path = tmp_path / f"{folder}.yaml"
        path.write_text(to_yaml(config))
        return config, path

    return make


@pytest.mark.cluster
@pytest.mark.parametrize("model", ["sgm", "gsmn"])
def test_two_ranks_equal_one_process(configure, launch, model):
    alone, _ = configure(model, "alone")
    train(alone)
    together, path = configure(model, "together")
    said = launch(path, 2)
    assert "cpu x 2" in said
    assert said.count("done: best rsum") == 1  # rank 0 speaks alone
    one, two = losses_of(alone.run.folder), losses_of(together.run.folder)
    assert len(one) == len(two) == 20
    np.testing.assert_allclose(two, one, rtol=1e-5)
    before, after = (
        checkpoint.load_last(Path(c.run.folder) / "last.pt")["model"] for c in (alone, together)
    )
    for name, value in before.items():
        if name.endswith("outer.bias"):  # shifts all scores alike: its gradient is rounding only
            continue
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.cluster
def test_two_ranks_evaluate_as_one_process_does(configure, launch, tmp_path, capsys):
    config, _ = configure("sgm", "alone", max_steps=2)
    train(config)
    words = ["--store", config.data.store, "--split", "test", "--bootstrap", "0", "--json"]
    folder = config.run.folder
    evaluate.app.call([folder, *words, str(tmp_path / "one.json")])
    capsys.readouterr()
    said = launch(folder, 2, *words, str(tmp_path / "two.json"), module="models.evaluate")
    assert said.count("test: 12 images") == 1  # rank 0 speaks alone
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two


@pytest.mark.cluster
def test_a_run_resumes_with_another_number_of_ranks(configure, launch):
    alone, _ = configure("sgm", "alone")
    train(alone)
    moving, path = configure("sgm", "moving")
    launch(path, 2, "--run.max_steps", "7")  # inside the second epoch
    changed = from_dict({**_tree(moving), "run": {**_tree(moving)["run"], "max_steps": 13}})
    train(changed)
    said = launch(path, 2)
    assert "resuming at step 13" in said
    np.testing.assert_allclose(losses_of(moving.run.folder), losses_of(alone.run.folder), rtol=1e-5)


def _tree(config):
    from models.configuration.config import to_dict

    return to_dict(config)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_divide_an_epoch_without_overlap_or_loss(tiny_store, world):
    from features.batches.epoch_order import epoch_order, rank_slice

    store = tiny_store(images=24)
    rows = store.caption_rows("train")  # 60
    whole = epoch_order(rows, store.image_of_caption(rows), seed=3, epoch=2)
    parts = [rank_slice(whole, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    size = 12 // world  # the same global batch, whatever the number of ranks
    for step in range(5):
        batch = np.concatenate([part[step * size : (step + 1) * size] for part in parts])
        assert set(batch.tolist()) == set(whole[step * 12 : (step + 1) * 12].tolist())


def test_one_process_gathers_nothing(make_images, make_captions):
    import models

    torch.manual_seed(0)
    model = models.create(
        "sgm", image_dim=16, vocab_size=50, n_labels=12, n_predicates=8, embed_dim=8, word_dim=8
    )
    images, captions = make_images(4), make_captions(4)
    code = model.encode_captions(captions)
    assert gather_rows(code, World()) is code
    loss = model.loss(images, captions, Exchange(World(), captions.rows))
    assert torch.equal(loss, model.loss(images, captions))
    assert World().agree(True, torch.device("cpu")) is True
    assert World().share(3) == 3
    assert World().collect("a") == ["a"]


@pytest.mark.cluster
def test_a_signal_to_torchrun_saves_and_the_same_command_resumes(configure, tmp_path):
    moving, path = configure("sgm", "moving", max_steps=4000, epochs=1000, eval_epochs=1000)
    table = Path(moving.run.folder) / "metrics.csv"
    with subprocess.Popen(
        torchrun(path, 2),
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as job:
        deadline = time.monotonic() + 120
        while not (table.exists() and table.read_text().count("\n") > 20):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        job.terminate()
        said, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "stopped by a signal at step" in said
    position = checkpoint.load_last(Path(moving.run.folder) / "last.pt")["position"]
    assert position["step"] >= 20
    assert position["step"] % 10 == 0  # where the ranks ask each other
    step = position["step"] + 2
    said = run_all([torchrun(path, 2, "--run.max_steps", str(step))], [{}])
    assert f"resuming at step {position['step']}" in said
    assert len(losses_of(moving.run.folder)) == step


def run_code(code, env):
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("ranked", [True, False])
def test_a_rank_flushes_its_output_and_exits_without_closing_the_interpreter(ranked):
    """Threads of a process group may hold tensors then, which ends an interpreter by SIGABRT."""
    code = (
        "import atexit, sys\n"
        "from features.commands.program import exit_cleanly\n"
        "atexit.register(print, 'closed')\n"
        "exit_cleanly(lambda: print('said') or 75)\n"
    )
    world = {"RANK": "1", "WORLD_SIZE": "2"} if ranked else {}
    done = run_code(code, world)
    assert done.returncode == 75
    assert done.stdout.split() == (["said"] if ranked else ["said", "closed"])


def test_nothing_of_the_process_group_outlives_it(rank_env):
    """The compiler, which our optimiser does not load, could keep the group and its threads."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from models.compute.distributed import join_world\n"
        "from models.configuration import OptimConfig\n"
        "from models.training.optim import make_optimizer\n"
        "def threads():\n"
        "    return [t.read_text() for t in Path('/proc/self/task').glob('*/comm')]\n"
        "with join_world('cpu') as world:\n"
        "    ours = make_optimizer(torch.nn.Linear(2, 2), OptimConfig())\n"
        "    ours.zero_grad()\n"
        "    ours.step()\n"
        "    ours.load_state_dict(ours.state_dict())\n"
        "    print('torch._dynamo' in sys.modules)\n"
        "    torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).step()\n"
        "    print('torch._dynamo' in sys.modules)\n"
        "    print(sum('gloo' in name for name in threads()) > 0)\n"
        "print(sum('gloo' in name for name in threads()))\n"
    )
    done = run_code(code, rank_env(1)[0])
    assert done.stdout.split() == ["False", "True", "True", "0"], done.stderr[-2000:]
