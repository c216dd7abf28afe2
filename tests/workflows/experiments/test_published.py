"""The papers' tables as data: complete, consistent, and made of configurations that exist."""

import itertools
from collections import Counter
from pathlib import Path

import pytest
import yaml

import models
import workflows
from features.yaml_text import own_yaml
from models.configuration.files import load, shipped

FOLDER = Path(workflows.__file__).parent / "experiments" / "data" / "published"
PAPERS = ("sgm", "gsmn", "racg", "hrem", "cfsgr")
BASELINES = "baselines"  # without published numbers

REQUIRED = {
    "name": str,
    "table": str,
    "label": str,
    "method": str,
    "dataset": str,
    "protocol": str,
    "split": str,
    "ensemble": bool,
    "rerank": bool,
    "text": str,
    "regions": str,
    "numbers": dict,
}
OPTIONAL = {"ours", "why", "nearest", "note", "subset"}
PROTOCOLS = {"f30k": {"1k"}, "coco": {"coco_1k_folds", "coco_5k"}}
METHODS = {"sgm", "gsmn", "racg", "hrem", "cfsgr", "scan", "vse++"}
REGIONS = {"bottom-up", "motifs-bottom-up", "motifs-efficientnet-b5", "whole-image-resnet-152"}
NEEDS = {"bert-base", "glove", "word2vec"}
RECALLS = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
NUMBERS = {*RECALLS, "rsum", "mr", "medr_i2t", "medr_t2i", "training_h_per_epoch", "testing_s"}

# Table: rows, and the sum of all their numbers, so that none can change unnoticed
CHECKLIST = {
    ("sgm", "1"): (5, 2300.4),
    ("sgm", "2"): (4, 1791.8),
    ("sgm", "3"): (6, 2626.3),
    ("gsmn", "1"): (5, 4666.8),
    ("gsmn", "2"): (5, 4721.3),
    ("gsmn", "3"): (7, 2100.7),
    ("racg", "I"): (28, 16454.6),
    ("racg", "II"): (11, 5318.9),
    ("racg", "III"): (9, 4382.5),
    ("racg", "IV"): (9, 2270.32),
    ("hrem", "1"): (6, 5257.9),
    ("hrem", "2"): (8, 8361.7),
    ("hrem", "3a"): (7, 2278.9),
    ("hrem", "3b"): (6, 1962.5),
    ("hrem", "4"): (24, 2230.2),
    ("cfsgr", "1"): (2, 1969.2),
    ("cfsgr", "2"): (7, 6946.9),
}


def read(paper):
    return own_yaml(FOLDER / f"{paper}.yaml")


ROWS = [{"paper": paper, **row} for paper in PAPERS for row in read(paper)["rows"]]
OURS = [row for row in ROWS if row["ours"]]


def rows(some=ROWS):
    return pytest.mark.parametrize("row", some, ids=[row["name"] for row in some])


def runs_of(row):
    return row["ours"]["runs"] if row["ours"] else row["nearest"]


def off(numbers, total, key):
    """Return what a printed sum or mean should be, or None where rounding explains it."""
    right = total if key == "rsum" else total / 6
    return None if abs(numbers[key] - right) <= (0.35 if key == "rsum" else 0.1) else right


def test_the_files_are_those_of_the_five_papers():
    assert {path.stem for path in FOLDER.glob("*.yaml")} >= {*PAPERS, BASELINES}
    for paper in PAPERS:
        head = read(paper)
        assert set(head) <= {"paper", "title", "venue", "ablations", "notes", "rows"}
        assert head["paper"].lower() == paper
        assert set(head["ablations"]) < {row["table"] for row in head["rows"]}
    assert not any(row["numbers"] for row in read(BASELINES)["rows"])


def test_every_table_is_complete():
    found = {}
    for row in ROWS:
        count, total = found.get((row["paper"], row["table"]), (0, 0.0))
        total = round(total + sum(row["numbers"].values()), 2)
        found[row["paper"], row["table"]] = count + 1, total
    assert found == CHECKLIST


@rows()
def test_a_row_has_its_keys(row):
    for key, kind in REQUIRED.items():
        assert isinstance(row[key], kind), key
    assert set(row) - set(REQUIRED) - {"paper"} <= OPTIONAL
    assert row["name"].startswith(f"{row['paper']}_t")
    assert row["method"] in METHODS
    assert row["text"] in {"gru", "bert-base"}
    assert row["regions"] in REGIONS
    assert row["split"] == "test"
    assert row["protocol"] in PROTOCOLS[row["dataset"]]
    if row["ours"] is None:
        assert row["why"]
        assert row["nearest"]
    else:
        assert not {"why", "nearest"} & set(row)


@rows()
def test_numbers_are_possible(row):
    numbers = row["numbers"]
    assert numbers
    assert set(numbers) <= NUMBERS
    assert all(isinstance(value, float) for value in numbers.values())
    for way in ("i2t", "t2i"):
        found = [numbers[f"{way}_r{k}"] for k in (1, 5, 10) if f"{way}_r{k}" in numbers]
        assert found == sorted(found)
        assert all(0 < value < 100 for value in found)
        assert numbers.get(f"medr_{way}", 1.0) >= 1.0


@rows([row for row in ROWS if {"rsum", "mr"} & set(row["numbers"]) and "i2t_r1" in row["numbers"]])
def test_sums_and_means_are_those_of_the_recalls_or_noted(row):
    numbers = row["numbers"]
    key = "rsum" if "rsum" in numbers else "mr"
    right = off(numbers, sum(numbers[name] for name in RECALLS if name in numbers), key)
    assert right is None or f"{right:.1f}" in row["note"]


def test_no_row_is_listed_twice():
    assert not [name for name, n in Counter(row["name"] for row in ROWS).items() if n > 1]
    printed = Counter(
        tuple(
            str(row.get(key)) for key in ("paper", "table", "label", "text", "dataset", "protocol")
        )
        for row in ROWS
    )
    assert not [key for key, n in printed.items() if n > 1]
    of_one_table = Counter((row["paper"], row["table"], str(row["numbers"])) for row in ROWS)
    assert not [key for key, n in of_one_table.items() if n > 1]


def test_rows_that_several_tables_print_agree_or_are_noted():
    def same(row):
        evaluation = row["dataset"], row["protocol"], row["rerank"], row.get("subset")
        return str((row["method"], row["text"], runs_of(row), evaluation))

    shared = 0
    for _, group in itertools.groupby(sorted(ROWS, key=same), key=same):
        for one, other in itertools.combinations(group, 2):
            if "note" in one or "note" in other:
                continue
            both = set(one["numbers"]) & set(other["numbers"])
            assert {k: one["numbers"][k] for k in both} == {k: other["numbers"][k] for k in both}
            joined = one["numbers"] | other["numbers"]
            if set(RECALLS) <= set(joined):
                total = sum(joined[name] for name in RECALLS)
                assert not [
                    key for key in ("rsum", "mr") if key in joined and off(joined, total, key)
                ]
            shared += 1
    assert shared >= 30


@rows()
def test_the_runs_are_configurations_with_changes_that_exist(row):
    for run in runs_of(row):
        assert set(run) <= {"config", "changes"}
        words = [
            f"--{key}={yaml.safe_dump(value)}" for key, value in run.get("changes", {}).items()
        ]
        config, plain = load(run["config"], words), load(run["config"])
        models.build_options(config.model.name, **config.model.options)
        assert config.model.name == row["method"].replace("vse++", "vse")
        assert run["config"].endswith(f"_{row['dataset']}")
        assert (config.model.options.get("text_encoder") == "bert") == (row["text"] == "bert-base")
        assert bool(run.get("changes")) == (config != plain)
        assert (
            config.data.batch_size % config.data.neighbours == 0 or not config.data.neighbours_from
        )


@rows(OURS)
def test_the_evaluation_follows_from_the_row(row):
    ours = row["ours"]
    assert set(ours) <= {"runs", "evaluate", "needs", "open"}
    assert (len(ours["runs"]) > 1) == row["ensemble"]
    folds = row["protocol"] == "coco_1k_folds"
    assert ours["evaluate"] == {"fold5": folds, "rerank": row["rerank"]}
    assert set(ours.get("needs", [])) <= NEEDS
    assert ("bert-base" in ours.get("needs", [])) == (row["text"] == "bert-base")
    assert ("rerank.top" in ours.get("open", [])) == row["rerank"]


# Rows about methods that this package does not have

OTHERS = own_yaml(FOLDER / "others.yaml")
OF_OTHERS = {  # printed by, table: rows, and the sum of all their numbers
    ("sgm", "2"): (2, 689.5),
    ("sgm", "3"): (6, 2293.6),
    ("gsmn", "1"): (8, 5904.0),
    ("gsmn", "2"): (7, 5850.8),
    ("racg", "I"): (17, 9001.7),
    ("racg", "II"): (6, 2640.8),
    ("hrem", "1"): (12, 10204.8),
    ("hrem", "2"): (16, 16354.8),
    ("cfsgr", "1"): (10, 9868.1),
}
PRINTED = {  # rows of each table on paper, a row for each data set and protocol
    ("sgm", "1"): 5,
    ("sgm", "2"): 6,
    ("sgm", "3"): 12,
    ("gsmn", "1"): 13,
    ("gsmn", "2"): 12,
    ("gsmn", "3"): 7,
    ("racg", "I"): 45,
    ("racg", "II"): 17,
    ("racg", "III"): 9,
    ("racg", "IV"): 9,
    ("hrem", "1"): 18,
    ("hrem", "2"): 24,
    ("hrem", "3a"): 7,
    ("hrem", "3b"): 6,
    ("hrem", "4"): 24,
    ("cfsgr", "1"): 12,
    ("cfsgr", "2"): 7,
}


def test_the_rows_of_other_methods_complete_every_table():
    found = {}
    for row in OTHERS["rows"]:
        count, total = found.get((row["source"], row["table"]), (0, 0.0))
        total = round(total + sum(row["numbers"].values()), 2)
        found[row["source"], row["table"]] = count + 1, total
    assert found == OF_OTHERS
    assert {
        table: CHECKLIST[table][0] + OF_OTHERS.get(table, (0,))[0] for table in CHECKLIST
    } == PRINTED


@rows(OTHERS["rows"])
def test_a_row_of_another_method_has_its_keys(row):
    assert set(row) - {"note"} == {*REQUIRED, "ours", "why", "source"}
    assert row["name"].startswith(f"others_{row['source']}_t")
    assert row["method"] not in METHODS
    assert (row["ours"], row["split"]) == (None, "test")
    assert row["protocol"] in PROTOCOLS[row["dataset"]]
    test_numbers_are_possible(row)
    numbers = row["numbers"]
    printed = [numbers[key] for key in RECALLS if key in numbers]
    if "rsum" in numbers and off(numbers, sum(printed), "rsum"):
        assert f"{sum(printed):.1f}" in row["note"]
    if "mr" in numbers and abs(numbers["mr"] - sum(printed) / len(printed)) > 0.1:
        assert f"{sum(printed) / len(printed):.1f}" in row["note"]


def test_hrem_has_neighbour_batches_in_all_rows_but_one():
    without = {
        row["name"]
        for row in ROWS
        if row["method"] == "hrem"
        and not all("data.neighbours_from" in run.get("changes", {}) for run in runs_of(row))
    }
    assert without == {"hrem_t3b_without_neighbours"}


def test_every_configuration_of_a_paper_has_a_row():
    used = {run["config"] for row in ROWS for run in runs_of(row)}
    of_papers = {name for name in shipped() if not name.startswith(("demo_", "tfidf_", "clip_"))}
    unpublished = {f"cfsgr_{part}_coco" for part in ("coarse", "fine_object", "fine_predicate")}
    of_papers = {name for name in of_papers if not name.endswith("_f8k")}  # without a paper
    assert used == of_papers - unpublished
