"""TensorBoard's own reader finds the values of metrics.csv in the event files."""

from __future__ import annotations

import csv
import errno
import shutil
import threading
from pathlib import Path

import pytest

from features.errors import TrainingError
from models.configuration.config import from_dict
from models.train import train
from models.training import checkpoint
from models.training.logs import Events

pytest.importorskip("tensorboard", reason="optional: pip install 'scenestore[tensorboard]'")


def curves_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.fixture
def configure(tiny_store, tmp_path):
    store = tiny_store(images=24)

    def make(**run):
        tree = {
            "model": {"name": "sgm", "options": {"embed_dim": 16, "word_dim": 8}},
            "data": {"store": str(store.path), "batch_size": 16},
            "run": {"epochs": 2, "log_steps": 2, "save_steps": 2, "tensorboard": True, **run},
        }
        tree["run"]["folder"] = str(tmp_path / "run")
        return from_dict(tree)

    return make


def rows_of(config, kind):
    with (Path(config.run.folder) / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == kind]


def test_events_equal_the_metrics_file(configure):
    config = configure()
    train(config)
    curves = curves_of(Path(config.run.folder) / "events")
    for kind, names in (("train", ("loss", "lr", "loader_wait")), ("val", ("rsum", "i2t_r1"))):
        rows = rows_of(config, kind)
        assert rows
        for name in names:
            steps, values = zip(*curves[f"{kind}/{name}"], strict=True)
            assert list(steps) == [int(row["step"]) for row in rows], name
            assert values == pytest.approx([float(row[name]) for row in rows], rel=1e-6), name


def test_steps_that_a_resume_repeats_are_shown_once(configure, tmp_path):
    config = configure(max_steps=4)
    train(config)
    folder = Path(config.run.folder)
    shutil.copy(folder / "last.pt", tmp_path / "four.pt")
    train(configure(max_steps=6))
    (folder / "last.pt").unlink()
    shutil.copy(tmp_path / "four.pt", folder / "last.pt")  # as if killed before the save
    again = configure(max_steps=8)
    train(again)
    curves = curves_of(folder / "events")
    assert [step for step, _ in curves["train/loss"]] == [2, 4, 6, 8]
    assert len(rows_of(again, "train")) == 4


def test_no_events_unless_configured(configure):
    config = configure(tensorboard=False, max_steps=2)
    train(config)
    assert not (Path(config.run.folder) / "events").exists()


def test_events_of_a_killed_first_attempt_are_hidden(configure):
    config = configure(max_steps=2)
    train(config)
    (Path(config.run.folder) / "last.pt").unlink()  # as if killed before it
    train(config)
    curves = curves_of(Path(config.run.folder) / "events")
    assert [step for step, _ in curves["train/loss"]] == [2]


@pytest.fixture
def full_disk(monkeypatch):
    """Let the fifth record find no room."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, calls = RecordWriter.write, []

    def full(self, data):
        calls.append(data)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", full)


def test_a_full_disk_is_reported_in_one_line(configure, full_disk, capfd):
    config = configure(epochs=20, log_steps=1)
    hook = threading.excepthook
    with pytest.raises(TrainingError, match=r"events: events cannot be written \(No space left"):
        train(config)
    assert capfd.readouterr().err == ""  # no trace of the writer's thread
    assert threading.excepthook is hook
    assert checkpoint.load_last(Path(config.run.folder) / "last.pt")["position"]["step"] > 0
    monkey = configure(epochs=20, max_steps=4, tensorboard=False)
    assert train(monkey) == 0


def test_the_first_error_is_reported(full_disk, tmp_path):
    def fail():
        with Events(tmp_path) as events:
            for step in range(3):
                events.add("train", step, {"loss": 1.0})
            raise TrainingError("the loss is nan")

    with pytest.raises(TrainingError, match="the loss is nan"):
        fail()


def test_errors_of_other_threads_are_still_reported(tmp_path):
    told = []
    before, threading.excepthook = threading.excepthook, lambda failure: told.append(failure)
    try:
        with Events(tmp_path):
            other = threading.Thread(target=int, args=("x",))
            other.start()
            other.join()
    finally:
        threading.excepthook = before
    assert [failure.exc_type for failure in told] == [ValueError]


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"file/events: events cannot be written \(Not a dir"):
        Events(tmp_path / "file" / "events")
