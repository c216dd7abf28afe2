"""Build options: declared once, and the same in Luigi, in content keys and on the page."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

import workflows
from features.errors import UsageError
from pipeline.parse import parsers
from pipeline.vision.graph_builder import GraphRules
from workflows.build.option_table import option_table
from workflows.build.options import BuildOptions, TextOptions, described
from workflows.build.plan import Plan

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "building.md"
REBUILT = {  # groups whose keys depend on the key of the first one
    "": set(),
    "index": {"index", "visual", "regions", "tokens", "text"},
    "visual": {"visual", "regions"},
    "regions": {"regions"},
    "tokens": {"tokens", "text"},
    "text": {"text"},
}
CHANGES = {
    "dataset": "other",
    "captions": "other",
    "detections": "other",
    "relations": "geometric",
    "features": "label",
    "max_objects": 7,
    "max_relations": 8,
    "min_score": 0.5,
    "cross_class_iou": 0.5,
    "whole_image": "always",
    "on_error": "skip",
    "parser": "words",
    "profile": "spice",
    "scheme": "clear",
    "jobs": 99,
    "scheduler_address": "tcp://127.0.0.1:1",
}


@parsers.register("words")
class Words:
    name, version = "words", "1"


def test_each_option_is_a_luigi_parameter():
    for task, options in (("BuildDataset", BuildOptions), ("AddText", TextOptions)):
        parameters = dict(getattr(workflows, task).get_params())
        assert set(parameters) == {field.name for field in fields(options)}
        for field, _, option in described(options):
            assert parameters[field.name].description.startswith(option.help)
            assert parameters[field.name].significant == option.significant
    task = workflows.BuildDataset(store_dir="st", captions="c.json")
    assert BuildOptions.of(task) == BuildOptions(store_dir="st", captions="c.json")


def test_every_graph_rule_is_an_option():
    assert {field.name for field in fields(GraphRules)} <= set(BuildOptions.__annotations__)
    rules = BuildOptions(store_dir="st", min_score=0.5).rules()
    assert rules == {"max_objects": 36, "max_relations": 25, "min_score": 0.5}


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_enters_the_key_of_its_group(name, graphs):
    given = {key[2:].replace("-", "_"): str(value) for key, value in graphs.items()}
    before = BuildOptions(**given)
    value = CHANGES[name]
    if value == "other" and name != "dataset":  # another file
        document = json.loads(Path(given[name]).read_text())
        if name == "captions":
            document["images"].pop(0)
        else:
            document["0000.jpg"]["rels"].pop()
        value = f"{given[name]}.json"
        Path(value).write_text(json.dumps(document))
    after = replace(before, **{name: value})
    old, new = (Plan(options).groups() for options in (before, after))
    changed = {group for group in old if old[group].key != new[group].key}
    group = next(option.group for field, _, option in described(BuildOptions) if field.name == name)
    assert changed <= REBUILT[group]
    assert not group or group in changed


def test_a_value_out_of_range_is_refused():
    with pytest.raises(UsageError, match="--store-dir is empty"):
        BuildOptions()
    with pytest.raises(UsageError, match="--max-relations must be at least 1"):
        BuildOptions(store_dir="st", max_relations=0)


def test_the_page_has_the_table_of_the_options():
    assert option_table() in PAGE.read_text()
