"""Training, evaluation and comparison as Luigi tasks: real runs on a tiny store."""

import json

import pytest
import yaml

import models
import models.configuration.files
from features.errors import ConfigError, MissingInput, UnknownName
from workflows.experiments.compare import (
    PUBLISHED,
    as_markdown,
    published_rows,
    read_changes,
)
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
    assert set(rows) == {"sgm", "tfidf"}
    assert rows["sgm"]["published"]["sum"] == 478.6
    difference = rows["sgm"]["metrics"]["rsum"] - 478.6
    assert rows["sgm"]["difference"] == pytest.approx(difference)
    table = (tmp_path / "compare" / "compare.md").read_text()
    assert table in out
    assert "478.6 (SGM Table 2)" in table

    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "compare/results").iterdir()}
    assert {path.name for path in results} == {"sgm-seed0.json", "tfidf-seed0.json"}
    assert run_luigi("CompareModels", options)[0] == 0  # nothing is evaluated again
    assert results == {path: path.stat().st_mtime_ns for path in results}
    assert run_luigi("CompareModels", {**options, "--split": "val"})[0] == 0
    assert "Split val" in (tmp_path / "compare" / "compare.md").read_text()
    assert all(json.loads(path.read_text())["split"] == "val" for path in results)


def test_published_rows_of_a_paper_and_of_one_row():
    assert set(published_rows("gsmn", "f30k")) == {"gsmn_sparse", "gsmn_dense", "gsmn_ensemble"}
    assert list(published_rows("gsmn_dense", "coco")) == ["gsmn_dense"]
    with pytest.raises(UnknownName, match=r"'gsmm'\. Did you mean 'gsmn'"):
        published_rows("gsmm", "f30k")


def test_published_sums_are_those_the_papers_print():
    printed = {"sgm": 478.6, "gsmn_dense": 483.6, "gsmn_ensemble": 496.8, "cfsgr": 506.0}
    rows = published_rows(",".join(printed), "f30k")
    # GSMN prints 496.8 where its rounded recalls sum to 496.7
    sums = {name: sum(rows[name]["recalls"]) for name in printed}
    assert sums == pytest.approx(printed, abs=0.15)


def test_the_table_is_sorted_and_shows_the_range_of_seeds():
    def row(name, rsum, seeds):
        metrics = dict.fromkeys(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"), 1.0)
        return {
            "name": name, "metrics": {**metrics, "rsum": rsum}, "rsum_seeds": seeds,
            "rsum_interval": [1.0, 2.0], "published": {"sum": 7.5}, "source": "", "chance": 9.0,
            "images": 1000, "difference": 2.5,
        }  # fmt: skip

    document = {
        "rows": [row("low", 10.0, [10.0]), row("high", 20.0, [19.0, 21.0])], "split": "test",
        "seeds": 2, "overrides": "", "changes": "", "benchmark": "f30k",
    }  # fmt: skip
    table = as_markdown(document)
    assert "+2.5" in table
    assert "+2.5" not in as_markdown({**document, "benchmark": "coco"})  # other images
    assert table.index("high") < table.index("low")
    assert "| 1.0-2.0, 19.0-21.0 (seeds) |" in table


def test_an_ablation_is_a_row_with_options(tiny_store, run_luigi, tmp_path):
    options = {
        "--papers": "sgm_oom,gsmn_without_graph",
        "--benchmark": "ablation",
        "--store": tiny_store(images=24).path,
        "--overrides": SMALL,
        "--out": tmp_path / "compare",
    }
    code, _, err = run_luigi("CompareModels", options)
    assert code == 0, err
    runs = tmp_path / "compare" / "runs"
    used = models.configuration.files.load(runs / "gsmn_without_graph-seed0" / "config.yaml")
    assert used.model.options["graph"] is False
    rows = json.loads((tmp_path / "compare" / "compare.json").read_text())["rows"]
    found = {row["name"]: row for row in rows}
    assert "sgm_oom_no_context" in found  # a row of sgm_oom, too
    row = found["gsmn_without_graph"]
    ours = sum(row["metrics"][key] for key in ("i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10"))
    assert row["difference"] == pytest.approx(ours - (63.2 + 94.5 + 48.7 + 84.5))
    assert "290.9 of 4 recalls" in (tmp_path / "compare" / "compare.md").read_text()


def test_every_row_is_a_configuration_with_options_that_exist():
    for benchmark, rows in yaml.safe_load(PUBLISHED.read_text()).items():
        suffix = "f30k" if benchmark == "ablation" else benchmark
        for name, row in rows.items():
            assert len(row["recalls"]) in (0, 6), name
            for config in row["configs"]:
                used = models.configuration.files.load(f"{config}_{suffix}")
                models.create(used.model.name, **used.model.options | row.get("options", {}))


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


def test_the_shipped_changes_fit_every_model(tmp_path):
    changes = read_changes("small")
    for paper, words in changes.items():
        for name, row in published_rows("sgm" if paper == "all" else paper, "f30k").items():
            for config in row["configs"]:
                used = models.configuration.files.load(f"{config}_f30k", [*changes["all"], *words])
                assert used.optim.lr == 1e-3, name
                models.create(used.model.name, **used.model.options)


def test_several_processes_go_through_torchrun():
    command = train_command("c.yaml", "st", "run", "--optim.lr 1e-4", 4)
    assert command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    assert command[-2:] == ["--optim.lr", "1e-4"]
