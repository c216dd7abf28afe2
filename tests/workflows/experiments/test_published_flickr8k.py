"""The published results on Flickr8k as data: as they were read, possible, and with a source."""

import re
from pathlib import Path

import pytest
import yaml

import workflows
from models.configuration.files import load

FILE = Path(workflows.__file__).parent / "experiments" / "data" / "published" / "flickr8k.yaml"
CONTENT = yaml.safe_load(FILE.read_text(encoding="utf-8"))
ROWS = CONTENT["rows"]

KEYS = {
    *("name", "source", "read_in", "table", "label", "method", "dataset", "protocol", "split"),
    *("ensemble", "rerank", "text", "regions", "numbers", "ours", "why"),
}
TEXTS = {
    *("?", "rnn", "brnn", "lstm", "gru", "cnn", "bert-base", "word2vec-mean", "fisher-vectors"),
    *("dependency-tree", "dependency-relations"),
}
REGIONS = {
    *("?", "alexnet", "overfeat", "googlenet", "vgg", "resnet", "mobilenet", "nfnet", "rcnn"),
    "bottom-up",
}
WAYS = ("i2t", "t2i")
RECALLS = {f"{way}_r{k}": k for way in WAYS for k in (1, 5, 10)}

# Row: sums of its recalls image to text and text to image, so that no number can change unnoticed
SUMS = {
    "f8k_devise": (48.6, 55.6),
    "f8k_sdt_rnn_alexnet": (51.1, 53.6),
    "f8k_sdt_rnn": (62.7, 59.9),
    "f8k_defrag_alexnet": (52.4, 49.3),
    "f8k_defrag": (89.5, 81.8),
    "f8k_m_rnn": (100.2, 84.9),
    "f8k_dvsa_dep_tree": (102.7, 86.8),
    "f8k_dvsa_brnn": (111.3, 88.6),
    "f8k_mnlm_alexnet": (95.4, 85.1),
    "f8k_mnlm": (113.9, 101.0),
    "f8k_mnlm_code": (130.8, 104.8),
    "f8k_nic": (81.0, 83.0),
    "f8k_m_cnn_overfeat": (99.8, 94.3),
    "f8k_m_cnn": (145.6, 129.6),
    "f8k_fv_mean": (132.6, 124.8),
    "f8k_fv": (164.0, 136.0),
    "f8k_spe": (164.2, 139.1),
    "f8k_hm_lstm": (96.3, 92.5),
    "f8k_2waynet": (106.6, 79.0),
    "f8k_w2vv_code": (181.8, 0),
    "f8k_naa": (184.4, 159.1),
    "f8k_mfm": (181.2, 159.2),
    "f8k_scan": (222.4, 185.0),
    "f8k_imram_image": (211.9, 167.3),
    "f8k_imram_text": (223.7, 188.4),
    "f8k_imram": (229.9, 190.1),
    "f8k_itmeetsal_mobilenet": (160.3, 0),
    "f8k_itmeetsal": (187.1, 0),
    "f8k_mdm_full": (171.7, 150.8),
}
PARTS = {"f8k_nic", "f8k_hm_lstm", "f8k_2waynet"}  # recalls that the text leaves out


def rows(some=ROWS):
    return pytest.mark.parametrize("row", some, ids=[row["name"] for row in some])


def recalls(row, way):
    """Return the recalls of a direction by rank."""
    numbers = row["numbers"]
    return {k: numbers[key] for key, k in RECALLS.items() if key[:3] == way and key in numbers}


def test_the_head_names_every_paper_and_text_of_the_rows_and_no_other():
    assert set(CONTENT) == {"paper", "title", "papers", "texts", "notes", "rows"}
    assert set(CONTENT["papers"]) == {row["source"] for row in ROWS}
    assert set(CONTENT["texts"]) == {text for row in ROWS for text in row["read_in"]}
    assert all(
        re.search(r"\b20\d\d\b", text) for key, text in CONTENT["papers"].items() if key != "mdm"
    )


def test_the_rows_are_those_that_were_read():
    assert [row["name"] for row in ROWS if row["name"] not in SUMS] == []
    assert len(ROWS) == len({row["name"] for row in ROWS}) == len(SUMS)
    assert len({str(sorted(row["numbers"].items())) for row in ROWS}) == len(ROWS)


@rows()
def test_a_row_has_its_keys_and_the_protocol_of_flickr8k(row):
    assert set(row) - {"note", "nearest"} == KEYS
    assert row["name"].startswith("f8k_")
    assert (row["dataset"], row["protocol"], row["split"]) == ("f8k", "1k", "test")
    assert row["rerank"] is False
    assert row["ensemble"] is (row["method"] in {"m-cnn", "scan"})
    assert row["text"] in TEXTS
    assert row["regions"] in REGIONS
    assert row["ours"] is None
    assert row["why"]


@rows()
def test_a_row_says_where_its_numbers_are_printed_and_where_they_were_read(row):
    assert row["read_in"]
    of_code = all(text.endswith("-code") for text in row["read_in"])
    if of_code:
        assert row["table"] == "-"
        assert row["note"]
    elif row["read_in"] == ["paper"]:
        assert row["table"].isdigit()
    else:
        assert row["table"] == {"dvsa": "5"}.get(row["source"], "?")


@rows()
def test_recalls_rise_with_the_rank_and_sum_to_what_was_read(row):
    assert set(row["numbers"]) <= {*RECALLS, "medr_i2t", "medr_t2i", "mr"}
    assert all(isinstance(value, float) for value in row["numbers"].values())
    for way, total in zip(WAYS, SUMS[row["name"]], strict=True):
        found = recalls(row, way)
        values = [found[k] for k in sorted(found)]
        assert len(values) == (0 if total == 0 else 2 if row["name"] in PARTS else 3)
        assert values == sorted(set(values))
        assert all(0 < value < 100 for value in values)
        assert sum(values) == pytest.approx(total, abs=0.01)


@rows([row for row in ROWS if {"medr_i2t", "medr_t2i"} & set(row["numbers"])])
def test_half_of_the_queries_are_found_up_to_the_median_rank(row):
    for way in WAYS:
        median = row["numbers"].get(f"medr_{way}")
        for k, value in recalls(row, way).items() if median else ():
            assert (value >= 50) == (k >= median)


@rows([row for row in ROWS if "mr" in row["numbers"]])
def test_a_mean_is_that_of_the_six_recalls(row):
    total = sum(sum(recalls(row, way).values()) for way in WAYS)
    assert row["numbers"]["mr"] == pytest.approx(total / 6, abs=0.1)


@rows([row for row in ROWS if "nearest" in row])
def test_what_comes_closest_is_a_configuration_of_the_method(row):
    for run in row["nearest"]:
        words = [f"--{key}={value}" for key, value in run.get("changes", {}).items()]
        assert load(run["config"], words).model.name == row["method"]
