"""Rows of published tables: which are meant, what trains them, and what may be subtracted."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

import models
from features.errors import ConfigError, MissingInput, UnknownName, UsageError
from models.configuration.config import to_dict
from models.configuration.files import load
from workflows.experiments import published
from workflows.experiments.compare import (
    METRICS,
    CompareModels,
    published_tree,
    read_changes,
    summarise,
)
from workflows.experiments.published import all_rows, listing, select
from workflows.experiments.tables import as_markdown

SMALL = "--run.max_steps 2 --run.threads 1 --model.options.embed_dim 16 --model.options.word_dim 8"
PRINTED = {"i2t_medr": "medr_i2t", "t2i_medr": "medr_t2i"}


def row_named(name):
    return next(row for row in all_rows() if row.name == name)


def perfect(row, **changes):
    """Return results of an evaluation that repeats a published row exactly."""
    images, fold5 = published.PROTOCOLS[row.protocol]
    metrics = {key: row.numbers.get(PRINTED.get(key, key), 1.0) for key in METRICS}
    metrics["rsum"] = row.sum or 1.0
    runs = []
    for run in row.runs:
        words = [f"--{key}={json.dumps(value)}" for key, value in run.changes.items()]
        runs.append({"folder": f"runs/{run.config}", "config": to_dict(load(run.config, words))})
        if "glove" in row.needs or "word2vec" in row.needs:
            runs[-1]["config"]["data"]["vectors"] = "glove.txt"
    document = {
        "split": row.split, "images": images, "fold5": fold5, "precision": "float32",
        "rerank_top": 15 if row.rerank else 0, "chance": {"rsum": 1.0}, "runs": runs,
        "rows": [{"metrics": metrics, "intervals": {}}],
    }  # fmt: skip
    return {**document, **changes}


def with_option(document, key, value):
    document = copy.deepcopy(document)
    for run in document["runs"]:
        branch = run["config"]
        *parents, leaf = key.split(".")
        for parent in parents:
            branch = branch[parent]
        branch[leaf] = value
    return document


MADE = [row for row in all_rows() if row.runs]
WITH_RECALLS = [row for row in MADE if row.sum is not None and row.text != "bert-base"]


@pytest.mark.parametrize("row", WITH_RECALLS, ids=[row.name for row in WITH_RECALLS])
def test_a_perfect_reproduction_differs_by_nothing(row):
    found = summarise(row, [perfect(row)])
    assert found["unlike"] == found["changed"] == []
    assert found["difference"] == pytest.approx(0.0)
    assert found["protocol"] == found["published_protocol"]


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("sgm_t3_sgm_5k", {"fold5": True}, "five folds of 1,000 images, the paper 5,000 images"),
        ("sgm_t3_sgm_1k", {"fold5": False}, "5,000 images, the paper five folds of 1,000 images"),
        ("hrem_t1_gru_fusion", {"images": 1000}, "1,000 images, the paper 5,000 images"),
        ("gsmn_t1_dense", {"images": 1014}, "1,014 images, the paper 1,000 images"),
        ("gsmn_t1_dense", {"split": "val"}, "split val, the paper test"),
        ("gsmn_t1_dense", {"precision": "bf16"}, "scores in bf16"),
    ],
)
def test_other_protocols_are_not_subtracted(name, changes, why):
    found = summarise(row_named(name), [perfect(row_named(name), **changes)])
    assert found["unlike"] == [why]
    assert found["difference"] is None
    assert found["published"]["sum"]


@pytest.mark.parametrize(
    ("name", "key", "value", "why"),
    [
        (
            "hrem_t2_f30k_gru_fusion",
            "data.neighbours_from",
            0,
            "no batches of neighbours, the paper's row has batches of neighbours",
        ),
        (
            "gsmn_t3_without_graph",
            "model.options.graph",
            True,
            "graph is True, the paper's row has False",
        ),
        ("sgm_t2_sgm", "model.options.variant", "oom", "variant is 'oom', which the paper's"),
        ("gsmn_t1_dense", "model.options.scale", 10.0, "scale is 10.0, the paper's row has 20.0"),
    ],
)
def test_another_model_is_not_subtracted(name, key, value, why):
    row = row_named(name)
    found = summarise(row, [with_option(perfect(row), key, value)])
    assert any(why in one for one in found["unlike"])
    assert found["difference"] is None


def test_the_row_without_neighbours_is_no_other_row():
    full, without = row_named("hrem_t3b_full"), row_named("hrem_t3b_without_neighbours")
    run = perfect(without)
    why = "no batches of neighbours, the paper's row has batches of neighbours"
    assert why in summarise(full, [run])["unlike"]
    assert why not in summarise(without, [run])["unlike"]


def test_minilm_is_not_bert_base(tmp_path):
    row = row_named("hrem_t2_f30k_bert_fusion")
    assert summarise(row, [perfect(row)])["unlike"] == ["text encoder MiniLM, the paper BERT-base"]
    config = {"hidden_size": 768, "num_hidden_layers": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    document = with_option(perfect(row), "model.options.bert", str(tmp_path))
    found = summarise(row, [document])
    assert found["unlike"] == []
    assert found["difference"] == pytest.approx(0)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    assert "has not the sizes of BERT-base" in summarise(row, [document])["unlike"][0]
    gone = with_option(document, "model.options.bert", str(tmp_path / "gone"))
    assert "cannot be read" in summarise(row, [gone])["unlike"][0]


def test_another_training_is_marked():
    row = row_named("hrem_t2_f30k_gru_fusion")
    document = with_option(perfect(row), "optim.lr", 1e-3)
    document = with_option(document, "data.vectors", "minilm")
    document = with_option(document, "data.neighbours", 8)  # open in the paper
    document = with_option(document, "run.device", "cuda")
    found = summarise(row, [document])
    assert found["unlike"] == []
    assert found["changed"] == [
        "data.vectors minilm, the paper glove",
        "optim.lr 0.001 instead of 0.0005",
    ]
    table = as_markdown(
        {"rows": [found], "split": "test", "seeds": 1, "changes": "", "overrides": ""}
    )
    assert "| +0.0 * |" in table.replace("-0.0", "+0.0")
    assert "`hrem_t2_f30k_gru_fusion`: trained otherwise: data.vectors minilm" in table


def test_the_table_says_every_protocol_and_every_refusal():
    good, bad = row_named("sgm_t3_sgm_1k"), row_named("sgm_t3_sgm_5k")
    again = perfect(good)
    again["rows"] = copy.deepcopy(again["rows"])
    again["rows"][0]["metrics"]["rsum"] += 2
    rows = [summarise(good, [perfect(good), again]), summarise(bad, [perfect(bad, fold5=True)])]
    document = {"rows": rows, "split": "test", "seeds": 2, "overrides": "--x", "changes": ""}
    lines = as_markdown(document).splitlines()
    assert lines[2].startswith("| sgm_t3_sgm_1k | five folds of 1,000 images | 73.4 |")
    assert "504.1-506.1 (seeds)" in lines[2]
    assert lines[3].startswith("| sgm_t3_sgm_5k | five folds of 1,000 images | 50.0 |")
    assert lines[3].endswith("| 393.9 (SGM Table 3) | - |")
    assert "`sgm_t3_sgm_5k`: no difference: five folds" in lines[-1]
    assert "overrides: --x" in "\n".join(lines)


# Which rows a name means


def names(selector, benchmark):
    return [row.name for row in select(selector, benchmark)]


def test_a_paper_a_row_a_table_a_configuration_a_pattern():
    assert names("gsmn", "f30k") == ["gsmn_t1_sparse", "gsmn_t1_dense", "gsmn_t1_ensemble"]
    assert names("gsmn_dense", "coco") == ["gsmn_t2_dense"]
    assert names("gsmn_t1_ensemble", "f30k") == ["gsmn_t1_ensemble"]
    assert names("sgm", "coco") == ["sgm_t3_sgm_1k", "sgm_t3_sgm_5k"]  # both protocols
    assert names("hrem_gru", "f30k") == ["hrem_t2_f30k_gru_fusion", "hrem_t2_f30k_gru_full"]
    assert len(names("hrem_t1", "coco")) == 6
    assert names("hrem_*_bert_full", "coco") == ["hrem_t1_bert_full", "hrem_t2_coco_bert_full"]
    assert names("tfidf,vse", "f30k") == ["baselines_tfidf_f30k", "baselines_vse_f30k"]
    assert len(names("sgm", "ablation")) == 5
    scan = ["gsmn_t1_scan", "racg_t1_f30k_scan", "sgm_t2_scan_t2i", "sgm_t2_scan_i2t"]
    assert names("scan", "f30k") == scan  # it has no file of its own
    assert "gsmn_t3_2gcn" in names("gsmn", "ablation")


@pytest.mark.parametrize(
    ("selector", "benchmark", "error", "says"),
    [
        ("gsmm", "f30k", UnknownName, r"'gsmm'\. Did you mean 'gsmn'"),
        ("sgm", "flickr9k", UnknownName, "unknown benchmark 'flickr9k'. Known: ablation, coco"),
        ("hrem_t1", "f30k", UsageError, "CompareModels --list"),
        ("hrem_t4", "ablation", UsageError, "R@1 of a part of the queries only"),
    ],
)
def test_names_that_mean_nothing(selector, benchmark, error, says):
    with pytest.raises(error, match=says):
        select(selector, benchmark)


def test_a_new_file_of_rows_is_a_new_benchmark(tmp_path, monkeypatch):
    text = (published.FOLDER / "baselines.yaml").read_text()
    (tmp_path / "more.yaml").write_text(
        text.replace("f30k", "flickr8k").replace("vse_flickr8k}", "vse_f30k}")
    )
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    all_rows.cache_clear()
    published._own_papers.cache_clear()
    try:
        assert names("vse", "flickr8k") == ["baselines_vse_flickr8k"]
        with pytest.raises(UnknownName, match="Known: coco, flickr8k"):
            select("vse", "f30k")
    finally:
        monkeypatch.undo()
        all_rows.cache_clear()
        published._own_papers.cache_clear()


def test_the_list_has_every_row_and_number():
    text = listing(all_rows())
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert len(lines) == len(all_rows()) >= 153
    for row in all_rows():
        line = lines[row.name]
        assert published.protocol_of(row) in line
        assert all(f"{key} {value:g}" in line for key, value in row.numbers.items())
        assert row.source in line
        assert all(run.config in line for run in row.runs) if row.runs else "cannot be made" in line
    assert "data.neighbours_by=embeddings" in lines["hrem_t2_f30k_gru_fusion"]
    assert "[needs bert-base]" in lines["racg_t1_f30k_bert_rerank"]
    assert "re-ranked" in lines["racg_t1_f30k_bert_rerank"]


def test_published_sums_are_those_the_papers_print():
    wanted = {"sgm_t2_sgm": 478.6, "gsmn_t1_dense": 483.6, "cfsgr_t1_cfsgr": 506.0}
    assert {name: row_named(name).sum for name in wanted} == wanted


# Changes


def test_changes_are_options_by_paper(tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("all: {optim.lr: 1.0e-3, data.train: 'val[:-3]'}\ngsmn: {}\n")
    words = ["--optim.lr", "0.001", "--data.train", '"val[:-3]"']
    assert read_changes(str(path)) == {"all": words, "gsmn": []}
    with pytest.raises(MissingInput, match="Check --changes"):
        read_changes(str(tmp_path / "none.yaml"))
    for text in ("- a", "all: 3", "a: [", "a: {b: 1}}"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_changes(str(path))


def test_the_shipped_changes_fit_every_row():
    changes = read_changes("small")
    for row in (row for row in MADE if row.benchmark == "f30k"):
        for run in row.runs:
            words = [
                w
                for name in changes
                for w in changes[name]
                if published.concerns(name, row, run.config)
            ]
            used = load(run.config, words)
            assert used.optim.lr == 1e-3, row.name
            models.build_options(used.model.name, **used.model.options)


def test_a_published_tree_has_the_changes_of_its_row():
    row = row_named("hrem_t2_f30k_gru_full")
    first, second = (published_tree(run) for run in row.runs)
    assert second["model"]["options"]["mechanism"] == "standalone"
    assert "mechanism" not in first["model"]["options"]
    assert first["data"]["neighbours_by"] == "embeddings"
    assert first == yaml.safe_load(yaml.safe_dump(first))


def test_a_row_is_trained_and_evaluated_as_published():
    """Changes of all sections are in the options of a training, folds in the evaluation."""
    row = row_named("hrem_t2_coco_gru_full")
    task = CompareModels(store="st", benchmark="coco", papers=row.name)
    words = [task.training(row, run, 3).overrides for run in row.runs]
    for said in words:
        assert "--data.neighbours_from 16" in said
        assert "--data.neighbours_by '\"embeddings\"'" in said
        assert said.endswith("--run.seed 3")
    assert "mechanism" not in words[0]
    assert "--model.options.mechanism" in words[1]
    assert task.evaluation(row, 0).fold5 is True
    assert task.evaluation(row_named("hrem_t1_gru_full"), 0).fold5 is False
    assert task.clone(CompareModels, whole=True).evaluation(row, 0).fold5 is False
    again = row_named("racg_t1_coco_gru_rerank")
    assert (task.evaluation(again, 0).fold5, task.evaluation(again, 0).rerank) == (True, True)


# Whole comparisons on a tiny store


@pytest.mark.cluster
def test_a_comparison_shows_our_numbers_beside_the_papers(tiny_store, run_luigi, tmp_path):
    changes = tmp_path / "changes.yaml"
    changes.write_text(
        "all: {run.threads: 1, model.options.word_dim: 8, data.train: 'train[:6]'}\n"
        "sgm: {model.options.embed_dim: 16}\n"
        "tfidf: {model.options: {}}\n"
    )
    options = {
        "--papers": "sgm,tfidf",
        "--store": tiny_store(images=24).path,
        "--overrides": "--run.max_steps 2",
        "--changes": changes,
        "--out": tmp_path / "compare",
    }
    code, out, err = run_luigi("CompareModels", options)
    assert code == 0, err
    document = json.loads((tmp_path / "compare" / "compare.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) == {"sgm_t2_sgm", "baselines_tfidf_f30k"}
    sgm = rows["sgm_t2_sgm"]
    assert sgm["published"]["sum"] == 478.6
    assert sgm["difference"] is None
    assert f"{sgm['images']} images, the paper 1,000 images" in sgm["unlike"]
    assert "run.max_steps 2 instead of 0" in sgm["changed"]
    table = (tmp_path / "compare" / "compare.md").read_text()
    assert table in out
    assert "478.6 (SGM Table 2)" in table
    file = tmp_path / "compare" / "cards" / "sgm_t2_sgm.json"
    assert json.loads(file.read_text()) == sgm["card"]
    assert sgm["card"]["rsum"]["value"] == sgm["metrics"]["rsum"]
    assert sgm["card"]["trainings"][0]["config"]["run"]["max_steps"] == 2
    assert f"- again: `{sgm['card']['command']}`" in table
    assert f"- verify: `scenestore verify-result {file}`" in table

    found = sorted((tmp_path / "compare" / "results").glob("*.json"))
    results = {path: path.stat().st_mtime_ns for path in found}
    assert len(results) == 2
    assert run_luigi("CompareModels", options)[0] == 0  # nothing is evaluated again
    assert results == {path: path.stat().st_mtime_ns for path in results}
    assert run_luigi("CompareModels", {**options, "--split": "val"})[0] == 0
    assert "Split val" in (tmp_path / "compare" / "compare.md").read_text()
    assert all(json.loads(path.read_text())["split"] == "val" for path in results)


@pytest.mark.cluster
def test_rows_with_the_same_runs_share_a_training(tiny_store, run_luigi, tmp_path):
    options = {
        "--papers": "gsmn_t3_without_graph,racg_t3_sparse,racg_t4_sparse",
        "--benchmark": "ablation",
        "--store": tiny_store(images=24).path,
        "--overrides": SMALL + " --data.batch_size 16",
        "--changes": tmp_path / "changes.yaml",
        "--out": tmp_path / "compare",
    }
    (tmp_path / "changes.yaml").write_text(
        "racg: {model.options.heads: 4, model.options.position_dim: 4}\n"
    )
    code, _, err = run_luigi("CompareModels", options)
    assert code == 0, err
    runs = {path.name: path for path in (tmp_path / "compare" / "runs").iterdir()}
    assert len(runs) == 2
    changed = next(path for name, path in runs.items() if name.startswith("gsmn_sparse_f30k-"))
    assert load(changed / "config.yaml").model.options["graph"] is False
    document = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert len(document["rows"]) == 3
    assert "290.9 of 4 recalls" in (tmp_path / "compare" / "compare.md").read_text()


@pytest.mark.cluster
def test_the_list_needs_no_store(run_luigi):
    code, out, err = run_luigi("CompareModels", {}, "--list")
    assert code == 0, err
    assert len([line for line in out.splitlines() if " | " in line]) == len(all_rows())
    code, _, err = run_luigi("CompareModels", {})
    assert code == 30
    assert "needs a store. Pass --store FOLDER" in err
