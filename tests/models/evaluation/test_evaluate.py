"""Evaluation of runs: tables, ensembles, refusals, files; word vectors; the metrics file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import models
from features.errors import (
    ConfigError,
    MismatchError,
    MissingInput,
    UnknownName,
    UsageError,
    WriteError,
)
from models.configuration.config import from_dict
from models.evaluate import app
from models.evaluation import results
from models.evaluation.measure import evaluate_scores
from models.evaluation.metrics import chance, fold5, recall
from models.evaluation.rerank import rerank
from models.train import train
from models.training.logs import MetricsFile
from models.training.run import load_run
from models.training.word_vectors import vector_rows


@pytest.fixture
def store(tiny_store):
    return tiny_store(images=24)


@pytest.fixture
def trained(store, tmp_path):
    def run(name, model="sgm", **data):
        options = {} if model == "tfidf" else {"embed_dim": 16}
        if options and data.get("vectors", "none") == "none":
            options["word_dim"] = 8
        config = from_dict(
            {
                "model": {"name": model, "options": options},
                "data": {"store": str(store.path), "batch_size": 32, **data},
                "run": {"folder": str(tmp_path / name), "max_steps": 3, "seed": len(name)},
            }
        )
        assert train(config) == 0
        return Path(config.run.folder)

    return run


def test_numbers_equal_the_model_scored_by_hand(store, trained, tmp_path, capsys):
    folders = [trained("a"), trained("bb")]
    out = tmp_path / "out.json"
    words = ["--store", str(store.path), "--split", "test", "--json", str(out), "--rerank"]
    assert app.call([*map(str, folders), *words, "--bootstrap", "50"]) == 0
    owner = store.caption_image_rows("test")
    sims = [
        models.score_all(run.model, store, "test", run.codebook).numpy()
        for run in (load_run(folder, store) for folder in folders)
    ]
    assert not np.allclose(*sims)
    document = json.loads(out.read_text())
    names = [row["name"] for row in document["rows"]]
    assert names[0::2] == [*map(str, folders), "ensemble of 2"]
    assert names[1] == f"{folders[0]} + re-ranking"
    for at, matrix in enumerate([*sims, (sims[0] + sims[1]) / 2]):
        plain, again = (document["rows"][2 * at + k]["metrics"] for k in (0, 1))
        assert plain == dict(recall(matrix, owner))
        assert again["i2t_r1"] == recall(rerank(matrix), owner).i2t_r1
        assert again["t2i_r1"] == plain["t2i_r1"]
    assert document["chance"] == chance(owner, 8)
    assert document["rerank_top"] == 15
    assert app.call([str(folders[0]), *words, "--rerank-top", "3"]) == 0
    few = json.loads(out.read_text())
    assert few["rerank_top"] == 3
    wanted = dict(recall(rerank(sims[0], 3), owner))
    assert few["rows"][1]["metrics"]["i2t_meanr"] == wanted["i2t_meanr"]
    assert document["runs"][0]["config"]["model"]["name"] == "sgm"
    low, high = document["rows"][0]["intervals"]["rsum"]
    assert low <= document["rows"][0]["metrics"]["rsum"] <= high
    printed = capsys.readouterr().out
    assert "test: 8 images, 40 captions" in printed
    assert "chance" in printed
    own = json.loads((folders[1] / "results-test.json").read_text())
    assert own["rows"] == document["rows"][2:4]


def test_every_query_is_kept(store, trained):
    folder = trained("a")
    app.call([str(folder), "--store", str(store.path), "--bootstrap", "0"])
    table = pq.read_table(folder / "queries-test.parquet").to_pydict()
    assert table["direction"] == ["i2t"] * 8 + ["t2i"] * 40
    captions = store.captions.set_index("id")
    run = load_run(folder, store)
    sims = models.score_all(run.model, store, "test", run.codebook).numpy()
    ids = store.images[store.images.split == "test"].id.tolist()
    for at in range(8):
        right = [captions.loc[c].image == table["query"][at] for c in table["answers"][at]]
        assert (True in right) == (table["rank"][at] <= 10)
        if True in right:
            assert right.index(True) == table["rank"][at] - 1
        assert table["scores"][at] == sorted(sims[at].tolist(), reverse=True)[:10]
        assert table["query"][at] == ids[at]
    for at in range(8, 48):
        assert table["answers"][at].index(captions.loc[table["query"][at]].image) == (
            table["rank"][at] - 1
        )


def test_the_table_fits_the_terminal(store, trained, monkeypatch, capsys):
    folders = [str(trained("a")), str(trained("bb"))]
    capsys.readouterr()
    words = [*folders, "--store", str(store.path), "--bootstrap", "20", "--failures", "3"]
    tables = {}
    for width in (60, 80, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        assert app.call([*words, "--paired"]) == 0
        tables[width] = capsys.readouterr().out.splitlines()
        assert max(map(len, tables[width])) <= width
        assert sum(line.startswith("chance ") for line in tables[width]) == 1
    narrow, usual, wide = ("\n".join(tables[width]) for width in (60, 80, 160))
    results = json.loads((Path(folders[0]) / "results-test.json").read_text())["rows"][0]
    for name, value in results["metrics"].items():
        if not name.endswith("meanr"):
            assert f"{value:.1f}" in wide
            assert name == "mr" or f"{value:.1f}" in usual
            assert name == "mr" or "medr" in name or f"{value:.1f}" in narrow
    low, high = results["intervals"]["rsum"]
    assert f"{low:.1f}-{high:.1f}" in usual
    assert "not shown in 60 columns: i2t medr, t2i medr, mR" in narrow
    assert "not shown" not in wide
    assert wide.count("captions whose image is found last") == 2


def test_numbers_and_failures_as_json_and_as_a_page(store, trained, tmp_path, capsys, open_page):
    folder = trained("a")
    page = tmp_path / "failures.html"
    capsys.readouterr()
    words = [str(folder), "--store", str(store.path), "--bootstrap", "0", "--html", str(page)]
    assert app.call([*words, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == json.loads((folder / "results-test.json").read_text())["rows"]
    table = pq.read_table(folder / "queries-test.parquet").to_pandas()
    worst = table[table["direction"] == "t2i"]["rank"].max()
    found = open_page(page.as_uri(), width=400)
    assert found.problems == found.accessibility() == []
    assert found.overflow() == 0
    first = found.page.locator(".query").first.inner_text()
    assert f"at rank {worst}" in first
    asked = found.page.locator(".asked code").all_inner_texts()  # no photos: their ids
    assert len(asked) == len(set(asked)) > 1


def test_another_store_is_refused_without_allow_mismatch(trained, tiny_store):
    folder = trained("a")
    other = tiny_store(images=18, seed=4)
    words = [str(folder), "--store", str(other.path), "--bootstrap", "0"]
    with pytest.raises(MismatchError) as caught:
        app.call(words)
    own = json.loads((folder / "store.json").read_text())["path"]
    start = f"{folder} was trained on {own}; {other.path} has other images or captions, other "
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith("Use that store, or pass --allow-mismatch.")
    assert app.call([*words, "--allow-mismatch"]) == 0
    wide = tiny_store(images=18, dim=24)
    with pytest.raises(MismatchError, match="trained on features of width 16"):
        app.call([str(folder), "--store", str(wide.path), "--allow-mismatch"])


def test_missing_inputs_are_named(store, trained, tmp_path):
    with pytest.raises(MissingInput, match="there is no run folder"):
        app.call([str(tmp_path / "none"), "--store", str(store.path)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match=r"best\.safetensors: no such file"):
        app.call([str(tmp_path / "empty"), "--store", str(store.path)])
    with pytest.raises(MissingInput):
        app.call([str(trained("a")), "--store", str(tmp_path / "nowhere")])
    with pytest.raises(UnknownName, match=r"unknown split 'tset'\. Did you mean 'test'"):
        app.call([str(trained("a")), "--store", str(store.path), "--split", "tset"])


def test_a_full_disk_keeps_the_earlier_results(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.write_json(path, {"rsum": 1})

    def full(self, text, **options):
        self.write_bytes(text.encode()[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match=r"cannot be written \(No space left.*free some"):
        results.write_json(path, {"rsum": 2})
    assert json.loads(path.read_bytes()) == {"rsum": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_lower_precision_is_recorded_and_changes_scores_a_little(
    store, trained, tmp_path, monkeypatch
):
    seen = []

    def noted(sims, *args, **options):
        seen.append(sims)
        return evaluate_scores(sims, *args, **options)

    monkeypatch.setattr(models.evaluate, "evaluate_scores", noted)
    for precision in ("float32", "bf16"):
        out = tmp_path / f"{precision}.json"
        words = ["--store", str(store.path), "--bootstrap", "0", "--precision", precision]
        assert app.call([str(trained("a")), *words, "--json", str(out)]) == 0
        assert json.loads(out.read_text())["precision"] == precision
    apart = np.abs(seen[0] - seen[1])
    assert 0 < apart.max() < 0.1


def test_folds_rerank_inside_each_fold():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(20), 3)
    sims = rng.normal(size=(20, 60)).astype(np.float32) + (owner == np.arange(20)[:, None])
    plain = evaluate_scores(sims, owner, "x", folds=True)
    assert dict(plain.recall) == dict(fold5(sims, owner))
    again = evaluate_scores(sims, owner, "x", folds=True, reranked=True)
    singles = [
        recall(rerank(sims[i : i + 4, 3 * i : 3 * i + 12]), owner[:12]) for i in range(0, 20, 4)
    ]
    assert again.recall.i2t_r1 == pytest.approx(np.mean([one.i2t_r1 for one in singles]))
    assert again.recall.t2i_ranks.tolist() == plain.recall.t2i_ranks.tolist()
    assert again.name == "x + re-ranking"
    assert chance(owner, 20, 5) == pytest.approx(chance(owner[:12], 4))


def test_word_vectors_initialise_embeddings_and_set_their_width(store, trained, tmp_path):
    lines = [f"{w} {' '.join(str(n + k) for k in range(4))}" for n, w in enumerate(["dog", "red"])]
    file = tmp_path / "vectors.txt"
    file.write_text("\n".join(lines) + "\n")
    folder = trained("a", vectors=str(file))
    run = load_run(folder, store)  # evaluation needs the file no more
    assert run.model.options.word_dim == 4
    file.unlink()
    assert app.call([str(folder), "--store", str(store.path), "--bootstrap", "0"]) == 0
    file.write_text("\n".join(lines) + "\n")
    config = from_dict(
        {
            "model": {"name": "sgm", "options": {"word_dim": 8}},
            "data": {"store": str(store.path), "vectors": str(file)},
            "run": {"folder": str(tmp_path / "x")},
        }
    )
    with pytest.raises(ConfigError, match="word_dim is 8, but the vectors"):
        train(config)


def test_names_without_a_vector_stay_random():
    class Two:
        dim = 2

        def word(self, word):
            return {"hot": np.float32([1, 3]), "dog": np.float32([3, 5])}.get(word)

        def phrase(self, text):
            found = [v for v in map(self.word, text.split()) if v is not None]
            return np.mean(found, 0) if found else np.zeros(2, np.float32)

    rows = vector_rows(Two(), ["<pad>", "dog", "hot dog", "cat"])
    assert np.isnan(rows[0]).all()
    assert np.isnan(rows[3]).all()
    assert rows[1].tolist() == [3, 5]
    assert rows[2].tolist() == [2, 4]


def test_a_resumed_metrics_file_drops_later_and_incomplete_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    for step in range(1, 6):
        first.add(step=step, epoch=0, kind="train", loss=step / 3)
    with path.open("a") as file:
        file.write("6,0,tra")
    MetricsFile(path, keep_to=3).add(step=4, epoch=0, kind="train", loss=9.0)
    lines = path.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4"]
    assert float(lines[3].split(",")[3]) == 1.0
    assert float(lines[1].split(",")[3]) == 1 / 3
    assert lines[4].startswith("4,0,train,9.0,")
    assert len(MetricsFile(path).path.read_text().splitlines()) == 1


def test_a_baseline_that_is_not_trained_writes_a_run_folder(store, trained, capsys):
    folder = trained("baseline", model="tfidf")
    assert "tfidf is not trained" in capsys.readouterr().out
    assert app.call([str(folder), "--store", str(store.path), "--bootstrap", "0"]) == 0
    run = load_run(folder, store)
    fresh = models.create("tfidf", **vars(run.model.options))
    fresh.prepare(store, run.codebook)
    sims = models.score_all(fresh, store, "test", run.codebook)
    table = json.loads((folder / "results-test.json").read_text())
    assert table["rows"][0]["metrics"] == dict(recall(sims, store.caption_image_rows("test")))


def test_a_negative_number_of_samples_is_refused():
    with pytest.raises(UsageError, match="--bootstrap"):
        app.call(["run", "--store", "x", "--bootstrap", "-5"])
