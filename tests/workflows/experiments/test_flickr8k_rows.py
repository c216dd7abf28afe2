"""Our rows of Flickr8k, and the table of a comparison with differences and quoted rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from features.errors import UnknownName
from models.configuration.files import load, shipped
from workflows.experiments import published
from workflows.experiments.compare import describe_photos, quote
from workflows.experiments.published import all_rows, listing, select
from workflows.experiments.tables import as_markdown

ROWS = yaml.safe_load((published.FOLDER / "flickr8k_models.yaml").read_text())["rows"]
NUMBERS = dict.fromkeys(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"), 30.0)


def names(selector, benchmark="f8k"):
    return [row.name.removeprefix("ours_f8k_") for row in select(selector, benchmark)]


def test_the_rows_train_every_configuration_of_flickr8k():
    used = {run["config"] for row in ROWS for run in row["ours"]["runs"]}
    assert used == {name for name in shipped() if name.endswith("_f8k")}
    for row in ROWS:
        assert row["name"].startswith("ours_f8k_")
        assert (row["dataset"], row["protocol"], row["split"]) == ("f8k", "1k", "test")
        assert row["numbers"] == {}
        assert row["ensemble"] == (len(row["ours"]["runs"]) > 1)
        kinds = {load(run["config"]).model.name for run in row["ours"]["runs"]}
        assert row["method"] == (kinds.pop() if len(kinds) == 1 else "ensemble")
        assert row["ours"]["evaluate"] == {"fold5": False, "rerank": False}


def test_names_mean_our_rows():
    every = [row["name"].removeprefix("ours_f8k_") for row in ROWS]
    assert names("") == names("*") == every
    assert names("", "flickr8k") == names("", "Flickr8k") == every
    assert names("gsmn") == ["gsmn_sparse", "gsmn_dense", "gsmn"]
    assert names("sgm,scan,ensemble") == ["sgm", "scan", "sgm_vse", "all"]
    assert names("racg_gru_dense,cfsgr_fine_object") == ["racg_dense", "cfsgr_fine_object"]
    with pytest.raises(UnknownName, match="unknown benchmark 'flickr9k'"):
        select("", "flickr9k")


def test_other_benchmarks_keep_their_rows():
    assert [row.name for row in select("", "flickr30k")] == [
        row.name for row in select(published.MAIN, "f30k")
    ]
    scan = [row.name for row in select("scan", "f30k")]  # quoted rows have no say in it
    assert scan == [
        row.name
        for row in all_rows()
        if row.method == "scan" and row.dataset == "f30k" and row.runs
    ]


def test_the_list_names_the_paper_of_a_quoted_row():
    lines = {
        line.split(" | ")[0]: line.split(" | ")[1] for line in listing(all_rows()).splitlines()
    }
    assert lines["f8k_dvsa_brnn"].startswith("Karpathy and Fei-Fei, Deep Visual-Semantic")
    assert lines["f8k_dvsa_brnn"].endswith("arXiv:1412.2306, Table 5")
    assert lines["f8k_nic"].endswith("arXiv:1411.4555")  # no text has the table's number
    assert lines["f8k_mnlm_code"].endswith(", released code")
    assert lines["sgm_t2_sgm"] == "SGM Table 2"
    assert lines["ours_f8k_sgm"] == "no published numbers"
    assert not [name for name, source in lines.items() if "Flickr8k Table" in source]


def summary(name, rsum, method="sgm", protocol="1,000 images"):
    return {
        "name": name, "method": method, "source": "", "protocol": protocol, "unlike": [],
        "metrics": {**NUMBERS, "rsum": rsum}, "rsum_interval": [rsum - 9, rsum + 9], "changed": [],
        "rsum_seeds": [rsum - 1, rsum + 1], "published": {"sum": None}, "difference": None,
        "chance": 3.2,
    }  # fmt: skip


def test_the_table_has_differences_and_quoted_rows_below():
    pair = {"value": 30.0, "low": 20.0, "high": 40.0, "p": 0.0}
    near = {"value": -2.5, "low": -8.0, "high": 3.0, "p": 0.4}
    document = {
        "benchmark": "f8k", "split": "test", "seeds": 2, "overrides": "", "changes": "",
        "photos": "photos of 500 x 375 pixels (medians of the sides)",
        "rows": [summary("v", 170.0, "vse"), summary("s", 200.0), summary("t", 202.5)],
        "differences": {
            "samples": 1000,
            "pairs": [
                {"rows": ["s", "v"], "metrics": {"rsum": pair}},
                {"rows": ["s", "t"], "metrics": {"rsum": near}},
            ],
        },
        "quoted": [quote(row) for row in published.quoted("f8k")],
    }  # fmt: skip
    text = as_markdown(document)
    assert (
        "Split test of Flickr8k, photos of 500 x 375 pixels (medians of the sides), 2 seed" in text
    )
    assert "161.0-179.0, 169.0-171.0 (seeds)" in text
    lines = text.splitlines()
    assert "| row | minus t | minus v |" in lines
    assert "| s | -2.5 [-8.0, +3.0] p 0.400 | +30.0 [+20.0, +40.0] p < 0.002 |" in lines
    assert "| t | - | - |" in lines
    assert "| v | - | - |" in lines
    at = lines.index("## Published on Flickr8k, not by this package")
    quoted = [line for line in lines[at:] if line.startswith("| ")][1:]
    assert len(quoted) == len(published.quoted("f8k")) == 29
    assert "407.4" in quoted[0] or "420.0" in quoted[0]  # the best sum of all six recalls
    brnn = next(line for line in quoted if "BRNN" in line)
    assert "| 16.5 | 40.6 | 54.2 | 11.8 | 32.1 | 44.7 | 199.9 | rcnn | Karpathy" in brnn
    nic = next(line for line in quoted if line.startswith("| NIC"))
    assert nic.count("|  |") >= 1  # what was not read stays empty, and is not summed
    ours = [line for line in lines[:at] if line.startswith("| s |")]
    assert ours  # above the heading


def test_a_comparison_without_differences_or_quoted_rows_ends_as_before():
    document = {"split": "test", "seeds": 1, "overrides": "", "changes": ""}
    text = as_markdown({**document, "rows": [summary("s", 200.0)]})
    assert "Split test, 1 seed(s)" in text
    assert "Paired" not in text
    assert "##" not in text


def test_photos_are_described_by_the_sides_in_the_store(tiny_store):
    store = tiny_store(images=12)
    said = describe_photos(str(store.path), "test")
    sizes = store.column("image_size")[store.image_rows("test")]
    longer, shorter = np.median(sizes.max(1)), np.median(sizes.min(1))
    assert longer > shorter
    assert said.startswith(f"photos of {longer:.0f} x {shorter:.0f} pixels")


@pytest.mark.cluster
def test_a_comparison_of_flickr8k_has_paired_differences(tiny_store, run_luigi, tmp_path):
    options = {
        "--papers": "vse,tfidf",
        "--benchmark": "flickr8k",
        "--store": tiny_store(images=24).path,
        "--overrides": "--run.max_steps 2",
        "--changes": tmp_path / "changes.yaml",
        "--out": tmp_path / "compare",
    }
    (tmp_path / "changes.yaml").write_text("vse: {model.options.embed_dim: 16}\n")
    code, _, err = run_luigi("CompareModels", options)
    assert code == 0, err
    document = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert document["benchmark"] == "f8k"
    pairs = {tuple(pair["rows"]): pair["metrics"] for pair in document["differences"]["pairs"]}
    assert set(pairs) == {("ours_f8k_vse", "ours_f8k_tfidf")}
    rsums = {row["name"]: row["metrics"]["rsum"] for row in document["rows"]}
    for (one, other), metrics in pairs.items():
        assert metrics["rsum"]["value"] == pytest.approx(rsums[one] - rsums[other])
    table = (tmp_path / "compare" / "compare.md").read_text()
    assert "minus ours_f8k_vse" in table
    assert "## Published on Flickr8k" in table
