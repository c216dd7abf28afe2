"""Search returns the best of the score matrix; texts are parsed in another process."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import numpy as np
import pytest

import models
import pipeline
from features.errors import InputError, UnknownName, UsageError
from features.records import TextGraph
from models import search
from models.configuration.config import from_dict
from models.train import train
from models.training.run import load_run


@pytest.fixture
def setting(tiny_store, tmp_path):
    store = tiny_store(images=24)
    folder = tmp_path / "run"
    tree = {
        "model": {"name": "sgm", "options": {"embed_dim": 16, "word_dim": 8}},
        "data": {"store": str(store.path), "batch_size": 32},
        "run": {"folder": str(folder), "max_steps": 2},
    }
    train(from_dict(tree))
    return store, folder, load_run(folder, store)


@pytest.fixture
def spoken(monkeypatch):
    """Replace the parser's process: it answers with a stored caption's graph."""
    calls = []

    def answer(graph):
        def run(command, **options):
            calls.append(command)
            out = json.dumps([dataclasses.asdict(graph)])
            return subprocess.CompletedProcess(command, 0, out, "")

        monkeypatch.setattr(search.subprocess, "run", run)
        return calls

    return answer


def test_a_text_finds_the_images_of_its_column(setting, spoken, capsys):
    store, folder, run = setting
    sims = models.score_all(run.model, store, "test", run.codebook).numpy()
    captions = store.captions[store.captions.split == "test"].reset_index()
    images = store.images[store.images.split == "test"].id.to_numpy()
    calls = spoken(store.text(captions.id[7]))
    words = [str(store.path), str(folder), captions.text[7], "--split", "test", "--json"]
    assert search.app.call([*words, "--top", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [name for name, _ in found] == images[np.argsort(-sims[:, 7])[:3]].tolist()
    words = [str(store.path), str(folder), "--split", "test", "--json", "--top", "3"]
    assert search.app.call([*words, captions.text[7]]) == 0  # options may come first
    assert json.loads(capsys.readouterr().out) == found
    assert [score for _, score in found] == pytest.approx(np.sort(sims[:, 7])[::-1][:3], abs=1e-5)
    assert calls[0][1:4] == ["-m", "pipeline", "parse"]
    assert calls[0][-4:] == ["--profile", search.stored_profile(store), "--", captions.text[7]]


def test_an_image_finds_the_captions_of_its_row(setting, capsys):
    store, folder, run = setting
    sims = models.score_all(run.model, store, "train", run.codebook).numpy()
    captions = store.captions[store.captions.split == "train"].text.to_numpy()
    image = store.images[store.images.split == "train"].id.iloc[2]
    words = [str(store.path), str(folder), "--image", image, "--top", "4"]
    assert search.app.call([*words, "--json"]) == 0  # the largest split is train
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["image"] == image
    best = np.argsort(-sims[2], kind="stable")[:4]
    assert [text for text, _ in answer["captions"]] == captions[best].tolist()
    assert [score for _, score in answer["captions"]] == pytest.approx(sims[2][best], abs=1e-5)
    assert search.app.call(words) == 0
    said = capsys.readouterr().out
    assert all(f"{sims[2][at]:.4f}  {captions[at]}" in said for at in best)
    assert f"objects: {store.graph(image).labels[0]}" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dog", "Red"), ""),
        (("a", "dog", "zzqx"), "not known to RUN: zzqx."),
        (("zzqx", "qwrt"), "no word of the text is known to RUN (zzqx, qwrt)"),
    ],
)
def test_unknown_words_are_named(setting, spoken, capsys, words, said):
    store, folder, _ = setting
    n = len(words)
    noun = {"lemmas": words, "upos": ("NOUN",) * n, "xpos": ("NN",) * n, "roles": ("other",) * n}
    heads = {"heads": (-1, *(0,) * (n - 1)), "deprels": ("dep",) * n}
    spoken(TextGraph(" ".join(words), words, **noun, **heads))
    assert search.app.call([str(store.path), str(folder), " ".join(words)]) == 0
    err = capsys.readouterr().err
    assert "note: searching 'train', the largest split" in err
    assert said.replace("RUN", str(folder)) in err
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert any("known" in line for line in notes) == bool(said)


def test_a_text_without_words_is_refused(setting, spoken):
    store, folder, _ = setting
    for text in ("", " . "):
        spoken(TextGraph(text, tuple(text.split()), problem="empty"))
        with pytest.raises(UsageError, match="has no words"):
            search.app.call([str(store.path), str(folder), text])


def test_mistakes_are_named(setting, monkeypatch):
    store, folder, _ = setting
    base = [str(store.path), str(folder)]
    with pytest.raises(UsageError, match="either a text or --image"):
        search.app.call(base)
    with pytest.raises(UsageError, match="either a text or --image"):
        search.app.call([*base, "a dog", "--image", "x"])
    with pytest.raises(UsageError, match="--top"):
        search.app.call([*base, "a dog", "--top", "0"])
    with pytest.raises(UnknownName, match="unknown image id 'none'"):
        search.app.call([*base, "--image", "none"])

    def fail(command, **options):
        return subprocess.CompletedProcess(command, 2, "", "noise\nerror: unknown parser 'x'\n")

    monkeypatch.setattr(search.subprocess, "run", fail)
    with pytest.raises(UsageError, match="could not be parsed: error: unknown parser 'x'"):
        search.app.call([*base, "a dog"])


def test_only_a_parsed_caption_is_read():
    graph = search.read_graph('[{"caption": "A dog", "tokens": ["A", "dog"], "heads": [1, -1]}]')
    assert graph.tokens == ("A", "dog")
    assert graph.heads == (1, -1)
    for text in ("", "[]", "[3]", '{"tokens": 3', "null"):
        with pytest.raises(InputError, match="not a parsed caption"):
            search.read_graph(text)


def test_the_output_of_the_parser_can_be_read():
    caption = "Two black dogs chase a red ball on the grass."
    document = search.parse_text(caption, parser="spacy", profile="extended")
    assert document == pipeline.parse([caption])[0]
    assert ("dog", "chase", "ball") in document.triplets
