"""Failures of a job: one line, an exit code, and a checkpoint to resume from.

These tests run whole processes; ``test_train.py`` tests the same faults inside one process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from features.commands.program import exit_cleanly
from features.errors import TrainingError, WriteError
from models import evaluate, export, search
from models.compute.device import memory_errors
from models.compute.distributed import join_world
from models.configuration.config import from_dict, to_yaml
from models.train import train
from models.training import checkpoint
from models.training.logs import MetricsFile
from models.training.run import load_run

REPOSITORY = Path(__file__).resolve().parents[3]


def start(module, words, *, file_limit=0, env=None):
    """Start a command; ``file_limit`` is the largest size of a file, to simulate a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit if file_limit else None,
    )


def end(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def one_line(err):
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def setting(tiny_store, tmp_path):
    """Return (store, YAML of a small run, its folder)."""
    store = tiny_store(images=24)
    folder = tmp_path / "run"
    tree = {
        "model": {"name": "vse", "options": {"embed_dim": 32, "word_dim": 8}},
        "data": {"store": str(store.path), "batch_size": 16},
        "run": {"folder": str(folder), "epochs": 2, "log_steps": 1, "save_steps": 1},
    }
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(from_dict(tree)))
    return store, path, folder


def first_size(path, folder):
    """Return the bytes of a checkpoint before the optimiser has moments; later ones are larger."""
    from models.configuration.files import load

    train(load(str(path), ["--run.max_steps", "1"]))
    last = folder / "last.pt"
    state = checkpoint.load_last(last)
    after = last.stat().st_size
    weights = sum(value.numel() * value.element_size() for value in state["model"].values())
    for file in folder.iterdir():
        file.unlink()
    return after - weights


@pytest.mark.slow
def test_a_full_disk_and_the_same_command_with_space_again(setting):
    _, path, folder = setting
    room = first_size(path, folder)
    code, _, err = end(start("models.train", [path], file_limit=room))
    assert code == 1
    said = one_line(err)
    assert f"{folder / 'last.pt'}: cannot be written (File too large)" in said
    assert "The earlier contents are unchanged." in said
    assert checkpoint.load_last(folder / "last.pt")["position"]["step"] == 0
    assert not list(folder.glob("*.partial"))
    code, out, err = end(start("models.train", [path]))
    assert code == 0
    assert all(line.startswith("next: ") for line in err.splitlines()), err
    assert "resuming at step 0" in out
    assert "done: best rsum" in out


@pytest.mark.cluster
def test_when_one_rank_fails_the_others_refer_to_its_message(setting, rank_env):
    _, path, folder = setting
    room = first_size(path, folder)
    ranks = [start("models.train", [path], file_limit=room, env=world) for world in rank_env(2)]
    try:
        (code, _, err), (other_code, out, other_err) = map(end, ranks)
    finally:
        for process in ranks:
            process.kill()
    assert (code, other_code) == (1, 1)
    assert "cannot be written (File too large)" in one_line(err)
    assert "rank 1: another rank has failed; see its own message" in one_line(other_err)
    assert out == ""
    assert checkpoint.load_last(folder / "last.pt")["position"]["step"] == 0


def test_a_loss_that_explodes(setting):
    _, path, folder = setting
    words = [path, "--optim.lr", "3e37", "--optim.clip", "0", "--schedule.warmup_steps", "0"]
    code, _, err = end(start("models.train", words))
    assert code == 1
    assert "is not finite" in one_line(err) or "the loss is" in one_line(err)
    assert "Lower --optim.lr" in err
    weights = checkpoint.load_last(folder / "last.pt")["model"].values()
    assert all(value.isfinite().all() for value in weights)


def test_missing_and_mismatched_stores(setting, tiny_store):
    _, path, folder = setting
    other = tiny_store(images=24, seed=1)
    code, _, err = end(start("models.train", [path, "--data.store", "nowhere"]))
    assert code == 2
    assert "nowhere" in one_line(err)
    assert not folder.exists()
    from models.configuration.files import load

    train(load(str(path), ["--run.max_steps", "2"]))
    before = (folder / "last.pt").read_bytes()
    code, _, err = end(start("models.train", [path, "--data.store", other.path]))
    assert code == 1
    assert "last.pt was trained on " in one_line(err)
    assert (folder / "last.pt").read_bytes() == before
    code, _, err = end(start("models.evaluate", [folder, "--store", other.path]))
    assert code == 1
    assert "was trained on " in one_line(err)
    assert "--allow-mismatch" in err


def no_memory(*args, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


def test_out_of_memory_in_training_evaluation_export_and_search(setting, monkeypatch, capsys):
    store, path, folder = setting
    from models.configuration.files import load

    def fails(main):
        with pytest.raises(SystemExit) as left:
            exit_cleanly(main)
        said = one_line(capsys.readouterr().err)
        assert said.startswith(
            "error: out of memory on cpu: CUDA out of memory. Tried to allocate 20.00 GiB. "
        )
        assert left.value.code == 1
        return said

    train(load(str(path), ["--run.max_steps", "1"]))
    model = type(load_run(folder, store).model)
    monkeypatch.setattr(model, "encode_images", no_memory)
    capsys.readouterr()
    said = fails(lambda: train(load(str(path), [])))
    assert f"Lower --data.batch_size (and raise --optim.accumulate) and run again; {folder}" in said
    assert checkpoint.load_last(folder / "last.pt")["position"]["step"] == 1
    of = ["--store", str(store.path), "--split", "val"]
    assert "--device cpu" in fails(lambda: evaluate.app.call([str(folder), *of]))
    out = ["--out", str(folder / "out")]
    assert "--device cpu" in fails(lambda: export.app.call([str(folder), *of, *out]))
    image = store.images.id.iloc[0]
    words = [str(store.path), str(folder), "--image", image, "--split", "val"]
    assert "--device cpu" in fails(lambda: search.app.call(words))
    monkeypatch.undo()
    assert train(load(str(path), [])) == 0


def test_out_of_memory_on_a_cpu_is_reported_and_other_errors_pass(tiny_store):
    device = torch.device("cpu")
    with (
        pytest.raises(TrainingError, match=r"^out of memory on cpu: can't allocate.* Go home\.$"),
        memory_errors(device, "Go home."),
    ):
        torch.empty(2**55, dtype=torch.uint8)
    with (
        pytest.raises(TrainingError, match=r"^out of memory on cpu: .*Go home\.$"),
        memory_errors(device, "Go home."),
    ):
        raise MemoryError("Unable to allocate 8. TiB")
    with pytest.raises(RuntimeError, match=r"^something else$"), memory_errors(device, "x"):
        raise RuntimeError("something else")


def test_errors_that_are_not_about_peers_pass(monkeypatch, rank_env):
    for name, value in rank_env(1)[0].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"^a bug$"), join_world("cpu"):
        raise RuntimeError("a bug")
    with pytest.raises(TrainingError, match=r"^the disk is full$"), join_world("cpu"):
        raise TrainingError("the disk is full")
    with pytest.raises(TrainingError, match="rank 0: another rank has failed"), join_world("cpu"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1")


def test_a_metrics_file_that_cannot_be_written(tmp_path):
    table = MetricsFile(tmp_path / "metrics.csv")
    table.add(step=1, kind="train")
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(WriteError, match=r"metrics\.csv: cannot be written \(Is a directory\)"):
        table.add(step=2, kind="train")


def test_an_index_that_cannot_be_written(tmp_path):
    pytest.importorskip("faiss", reason="optional: pip install faiss-cpu")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/images\.faiss: cannot be written"):
        export.write_index(tmp_path / "file" / "images.faiss", np.eye(3, dtype=np.float32))
