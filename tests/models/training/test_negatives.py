"""False captions: drawn, in the loss, in a resumed run, and told apart by ``--negatives``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from features import Caption, ImageEntry, build_store, open_store
from features.batches import ImageEncoder, caption_batch
from features.errors import MismatchError, UsageError
from features.names import negative_id
from models.configuration.config import from_dict
from models.evaluate import app
from models.evaluation import Negatives, paired_scores
from models.evaluation.negatives import TOGETHER
from models.train import STOPPED, train
from models.training.checkpoint import load_last
from models.training.negatives import negative_hinge
from models.training.run import load_run
from models.training.trainer import Trainer


@pytest.fixture
def records(tiny_records):
    return tiny_records(images=24)


@pytest.fixture
def store(records):
    return records.open()


@pytest.fixture
def false(records, tmp_path):
    """Negatives: the captions of the next image; those of every fifth caption are missing."""
    texts = iter(records.texts)
    graphs = [[next(texts) for _ in entry.captions] for entry in records.entries]
    entries, made = [], []
    for row, entry in enumerate(records.entries):
        other = graphs[(row + 1) % len(graphs)]
        captions = []
        for at, caption in enumerate(entry.captions):
            for kind in () if at == 4 else ("noun", "swap") if at == 0 else ("noun",):
                captions.append(Caption(negative_id(caption.id, kind), other[at].caption))
                made.append(other[at])
        entries.append(dataclasses.replace(entry, captions=tuple(captions)))
    return build_store(tmp_path / "false", "tiny-negatives", entries, texts=made)


def test_negatives_belong_to_their_captions(store, false):
    found = Negatives(str(false), store)
    ids = store.column("caption_id")
    assert [str(ids[row]) for row in found.source[:3]] == ["1000.jpg#0", "1000.jpg#0", "1000.jpg#1"]
    assert found.kinds[:3] == ["noun", "swap", "noun"]
    captions = store.rows_of_captions(["1001.jpg#0", "1001.jpg#4", "1000.jpg#2"])
    rows, owner = found.of(captions)
    assert owner.tolist() == [0, 0, 2]
    assert found.source[rows].tolist() == captions[owner].tolist()


def test_a_draw_depends_on_seed_and_caption_alone(store, false):
    found = Negatives(str(false), store)
    captions = store.caption_rows("train")
    rows, position = found.draw(captions, seed=1)
    assert found.source[rows].tolist() == captions[position].tolist()
    assert len(rows) == len(captions) * 4 // 5
    again, _ = found.draw(captions[::-1].copy(), seed=1)
    assert again[::-1].tolist() == rows.tolist()
    drawn = {found.kinds[row] for seed in range(20) for row in found.draw(captions[:1], seed)[0]}
    assert drawn == {"noun", "swap"}


def test_stores_of_other_images_or_captions_are_refused(
    store, false, tiny_store, records, tmp_path
):
    with pytest.raises(MismatchError, match="has other images"):
        Negatives(str(false), tiny_store(images=12))
    with pytest.raises(MismatchError, match="are no negatives of"):
        Negatives(str(records.path), store)
    entries = [
        ImageEntry(e.id, e.file, e.split, (Caption(f"{e.id}#99~noun", "A dog ."),))
        for e in records.entries
    ]
    other = build_store(tmp_path / "o", "o", entries, texts=records.texts[: len(entries)])
    with pytest.raises(MismatchError, match="are no negatives of"):
        Negatives(str(other), store)


@pytest.fixture
def model(tiny):
    torch.manual_seed(0)
    return models.create("sgm", **tiny, embed_dim=8, word_dim=8).eval()


def test_paired_scores_are_those_of_the_matrix(model, make_images, make_captions):
    images, captions = make_images(2 * TOGETHER + 3), make_captions(30)
    code = model.encode_images(images), model.encode_captions(captions)
    owner = torch.tensor(sorted(np.random.default_rng(0).integers(0, 2 * TOGETHER + 3, 30)))
    wanted = model.score(*code)[owner, torch.arange(30)]
    torch.testing.assert_close(paired_scores(model, *code, owner), wanted)
    assert len(paired_scores(model, code[0], code[1], owner[:0])) == 0


def test_hinge_by_hand(model, make_images, make_captions):
    images, captions = make_images(5), make_captions(5, seed=1)
    other = make_captions(5, seed=2)
    code = model.encode_images(images)
    true = model.score(code, model.encode_captions(captions)).diagonal().tolist()
    wrong = model.score(code, model.encode_captions(other)).diagonal().tolist()
    wanted = sum(max(0.0, 0.3 - t + w) for t, w in zip(true, wrong, strict=True))
    found = negative_hinge(model, images, captions, other, 0.3)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert any(value.grad is not None and value.grad.any() for value in model.parameters())


@pytest.fixture
def configure(store, false, tmp_path):
    def make(folder, model="sgm", **changes):
        options = {"embed_dim": 16, "word_dim": 8}
        if model == "racg":
            options |= {"heads": 4, "position_dim": 4}
        if model == "cfsgr":
            options |= {"sim_dim": 8}
        tree = {
            "model": {"name": model, "options": options},
            "data": {"store": str(store.path), "batch_size": 16, "negatives": str(false)},
            "optim": {"lr": 1e-3},
            "run": {"epochs": 2, "log_steps": 1, "deterministic": True, "threads": 1},
        }
        tree["run"]["folder"] = str(tmp_path / folder)
        for key, value in changes.items():
            section, _, name = key.partition("_")
            tree[section][name] = value
        return from_dict(tree)

    return make


def losses(config):
    rows = (Path(config.run.folder) / "metrics.csv").read_text().splitlines()
    return [row.split(",")[:5] for row in rows if ",train," in row]


@pytest.mark.parametrize("model", ["sgm", "gsmn", "racg", "hrem", "cfsgr", "scan", "vse"])
def test_every_model_trains_with_negatives(configure, model):
    one = configure(f"{model}-with", model, run_max_steps=2)
    two = configure(f"{model}-without", model, run_max_steps=2, data_negatives="")
    assert train(one) == train(two) == 0
    assert losses(one)[0] != losses(two)[0]
    none = configure(f"{model}-weightless", model, run_max_steps=2, optim_negatives_weight=0)
    assert train(none) == 0
    assert losses(none) == losses(two)


def test_a_resumed_run_draws_the_same_negatives(configure, monkeypatch):
    whole, cut = configure("whole"), configure("cut")
    assert train(whole) == 0
    step = Trainer._step

    def interrupted(self, *args):
        step(self, *args)
        self.stop_requested = self.at.step == 2

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert train(cut) == STOPPED
    monkeypatch.undo()
    assert train(cut) == 0
    assert losses(cut) == losses(whole)
    weights = [load_last(Path(c.run.folder) / "last.pt")["model"] for c in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_other_negatives_cannot_continue_a_run(configure, records, tmp_path):
    config = configure("run", run_max_steps=1)
    assert train(config) == 0
    with pytest.raises(MismatchError, match="negatives"):
        train(configure("run", data_negatives=""))
    entries = [dataclasses.replace(entry, captions=()) for entry in records.entries]
    other = build_store(tmp_path / "none", "none", entries, texts=[])
    with pytest.raises(MismatchError, match="negatives"):
        train(configure("run", data_negatives=str(other)))
    # the run itself can be evaluated on any store with its data
    assert load_run(Path(config.run.folder), open_store(config.data.store)).name == "sgm"


def test_accuracy_by_kind(configure, store, false, tmp_path, capsys):
    config = configure("run", run_max_steps=2)
    assert train(config) == 0
    folder, out = config.run.folder, tmp_path / "out.json"
    words = [folder, "--store", str(store.path), "--negatives", str(false), "--split", "test"]
    assert app.call([*words, "--json", str(out), "--bootstrap", "20"]) == 0
    run, known = load_run(Path(folder), store), Negatives(str(false), store)
    wanted: dict[str, list[bool]] = {}

    def score(image, graph):
        code = run.model.encode_images(ImageEncoder(store, run.codebook).batch(np.array([image])))
        with torch.no_grad():
            text = run.model.encode_captions(caption_batch([graph], run.codebook))
            return run.model.score(code, text).item()

    for row, source in enumerate(known.source.tolist()):
        image = int(store.image_of_caption([source])[0])
        if image in store.image_rows("test"):
            true = score(image, store.text(str(store.column("caption_id")[source])))
            other = score(image, known.opened.text(str(known.opened.column("caption_id")[row])))
            wanted.setdefault(known.kinds[row], []).append(true > other)
    wanted["all"] = [value for values in wanted.values() for value in values]
    (found,) = json.loads(out.read_text())["rows"]
    assert {kind["kind"]: kind["count"] for kind in found["kinds"]} == {
        name: len(values) for name, values in wanted.items()
    }
    for kind in found["kinds"]:
        assert kind["value"] == pytest.approx(100 * np.mean(wanted[kind["kind"]]))
        assert kind["low"] <= kind["value"] <= kind["high"]
    assert (Path(folder) / "evaluation-negatives-test.json").is_file()
    assert "noun" in capsys.readouterr().out


def test_a_split_without_negatives(configure, store, records, false, tmp_path):
    config = configure("run", run_max_steps=1)
    assert train(config) == 0
    entries = [dataclasses.replace(entry, captions=()) for entry in records.entries]
    none = build_store(tmp_path / "none", "none", entries, texts=[])
    words = [config.run.folder, "--store", str(store.path), "--split", "test"]
    with pytest.raises(UsageError, match="no negatives of the captions of 'test'"):
        app.call([*words, "--negatives", str(none)])
