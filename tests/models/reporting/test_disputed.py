"""Readings of a configuration: every disputed option is explained, every row is found."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
import yaml

import models
from features.errors import ConfigError, MissingInput
from features.yaml_text import own_yaml
from models.configuration.files import load
from models.reporting import disputed as module
from models.reporting.disputed import PUBLISHED, disputed, published_rows, readings
from models.selfcheck import app

PAPERS = ("sgm", "gsmn", "racg", "hrem", "cfsgr")
ROWS = [row for path in sorted(PUBLISHED.glob("*.yaml")) for row in own_yaml(path)["rows"]]
ABLATIONS = {  # options that make another row of a table, where nothing is disputed
    "sgm": {"variant"},
    "gsmn": {"bidirectional", "text_graph", "graph", "directions"},
    "racg": {"text_graph", "relate_regions", "relate_words", "relate_across", "multi_head"},
    "hrem": {"relate_regions", "relate_words", "relate_instances", "connection", "relevance"},
    "cfsgr": {"part"},
}


@pytest.mark.parametrize("name", PAPERS)
def test_every_choice_of_a_model_is_explained(name):
    hints = typing.get_type_hints(models.options_class(name))
    choices = {
        key
        for key, hint in hints.items()
        if hint is bool or typing.get_origin(hint) is typing.Literal
    }
    explained = {
        option.removeprefix("model.options.")
        for option in {**disputed()[name], **disputed()["every model"]}
    }
    assert choices - ABLATIONS[name] - {"text_encoder"} <= explained
    assert not explained & ABLATIONS[name]
    assert explained - {"hard_negatives"} <= set(hints)  # HREM has ``negatives`` instead
    page = (Path(models.__file__).parents[1] / "docs" / "faithfulness.md").read_text()
    for option in disputed()[name]:
        assert f"`{option.removeprefix('model.options.')}" in page, option


@pytest.mark.parametrize(
    ("step", "numbers"),
    [
        ("MS-COCO 5K", ["-86.7", "444.1", "530.8"]),
        ("lambda | `scale: 20`", ["0.10", "0.086"]),
        ("Precision | `run.amp", ["3.5e-3", "0.047"]),
        ("Gradient of Eq. 10", ["1.3e-3"]),
        ("Start of the region MLP", ["0.0128", "0.0279", "0.033", "0.021"]),
        ("Clipping", ["0.019", "0.045", "0.023", "0.049"]),
        ("Eq. 16", ["linear layer", "sigmoid", "does not have"]),
        ("Easy epochs", ["Eq. 9", "Eq. 18"]),
        ("Rate of a BERT", ["0.1"]),
        ("Last batch", ["drop_last"]),
        ("Neighbours", ["embeddings", "regions"]),
        ("Seeds", ["no released code"]),
        ("MS-COCO 1K", ["five folds"]),
        ("Ties", ["against the query"]),
        ("Re-ranking | image", ["--rerank-top"]),
        ("Ensembles", ["mean of the score matrices"]),
    ],
)
def test_the_page_says_how_much_a_choice_matters(step, numbers):
    page = (Path(models.__file__).parents[1] / "docs" / "faithfulness.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {step}"))
    assert all(number in row for number in numbers)


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_of_a_choice_has_a_meaning(name):
    hints = typing.get_type_hints(models.options_class(name))
    for option, table in disputed()[name].items():
        hint = hints[option.removeprefix("model.options.")]
        if typing.get_origin(hint) is typing.Literal:
            assert {*typing.get_args(hint)} == set(table) - {"step", "when"} or "else" in table, (
                option
            )
        elif hint is bool:
            assert {True, False} == set(table) - {"step", "when"}, option
        else:
            assert "else" in table or option.endswith("margin"), option
    for one in readings(
        load(
            {
                "cfsgr": "cfsgr_coarse_f30k",
                "gsmn": "gsmn_dense_f30k",
                "racg": "racg_gru_dense_f30k",
                "hrem": "hrem_gru_f30k",
            }.get(name, "sgm_f30k")
        )
    ):
        assert one.meaning, one


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["ours"] and row["numbers"]], ids=lambda row: row["name"]
)
def test_the_runs_of_a_row_equal_this_row(row, tmp_path):
    for run in row["ours"]["runs"]:
        words = [
            f"--{key}={yaml.safe_dump(value)}" for key, value in run.get("changes", {}).items()
        ]
        needs = row["ours"].get("needs", [])
        if "bert-base" in needs:
            words += ["--model.options.bert", str(tmp_path)]
        if {"glove", "word2vec"} & set(needs):
            words += ["--data.vectors", "vectors.txt"]
        found = {match.row: match for match in published_rows(load(run["config"], words))}
        assert found[row["name"]].differences == ()
        assert found[row["name"]].part == row["ensemble"]


def test_steps_that_do_not_apply_are_left_out():
    options = {one.option for one in readings(load("hrem_gru_f30k"))}
    assert "data.neighbours_by" not in options
    assert "model.options.without_consistency" not in options
    assert "model.options.bert" not in options
    words = ["--data.neighbours_from", "3", "--model.options.consistency", "false"]
    more = {one.option for one in readings(load("hrem_bert_f30k", words))}
    assert more - options == {
        *("data.neighbours_by", "model.options.without_consistency", "model.options.bert"),
        "optim.lr_scale",
    }


@pytest.mark.parametrize(
    ("words", "row", "differences"),
    [
        ([], "hrem_t2_f30k_gru_fusion", ["data.neighbours_from 0 instead of 16"]),
        (["--optim.lr", "1e-3"], "hrem_t2_f30k_gru_fusion", ["optim.lr 0.001 instead of 0.0005"]),
        (["--run.device", "cpu", "--run.seed", "3"], "hrem_t2_f30k_gru_fusion", []),
        (["--run.amp", "bf16"], "hrem_t2_f30k_gru_fusion", ["run.amp bf16 instead of none"]),
    ],
)
def test_what_differs_from_a_row_is_named(words, row, differences):
    found = {m.row: m for m in published_rows(load("hrem_gru_f30k", words))}[row]
    own = [one for one in found.differences if not one.startswith("data.")]
    assert [one for one in differences if not one.startswith("data.")] == own
    assert "data.vectors none instead of glove" in found.differences
    assert "data.neighbours_from 0 instead of 16" in found.differences


def test_published_data_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PUBLISHED", tmp_path / "gone")
    with pytest.raises(MissingInput, match="has no published rows"):
        published_rows(load("sgm_f30k"))


def test_the_command_explains_a_configuration(capsys):
    assert app.call(["gsmn_dense_f30k", "--model.options.propagation", "official"]) in (0, None)
    said = capsys.readouterr().out
    assert "a node receives copies of itself (released)" in said
    assert "equals no published row" in said
    assert "nearest: published row gsmn_t1_dense" in said
    assert "    model.options.propagation official instead of paper" in said
    assert app.call(["gsmn_dense_f30k"]) in (0, None)
    assert (
        "\npublished row gsmn_t1_dense (GSMN Table 1, GSMN (dense), f30k 1k)"
        in capsys.readouterr().out
    )


def test_the_command_explains_a_run(tmp_path, capsys):
    from models.configuration.config import to_yaml

    (tmp_path / "config.yaml").write_text(to_yaml(load("cfsgr_coarse_f30k")))
    assert app.call([str(tmp_path)]) in (0, None)
    said = capsys.readouterr().out
    assert "published row cfsgr_t2_coarse" in said
    assert "part of the ensemble of published row cfsgr_t1_cfsgr" in said
    with pytest.raises(MissingInput, match="unknown configuration 'gsnm'"):
        app.call(["gsnm"])
    with pytest.raises(ConfigError, match="Did you mean 'propagation'"):
        app.call(["gsmn_dense_f30k", "--model.options.propagatoin", "paper"])
