"""The configurations of Flickr8k: those of Flickr30K with the small settings, and fewer epochs."""

from __future__ import annotations

import json
import re

import pytest
import yaml

import models
from models.configuration.config import to_dict
from models.configuration.files import load, shipped

FILES = {name: path for name, path in shipped().items() if name.endswith("_f8k")}
LEARNED = [name for name in FILES if name != "tfidf_f8k"]
SIZES = {"image_dim": 6, "vocab_size": 12, "n_labels": 5, "n_predicates": 4, "n_tags": 5}


def test_every_model_with_a_configuration_of_flickr30k_has_one():
    f30k = {name.removesuffix("_f30k") for name in shipped() if name.endswith("_f30k")}
    others = {name for name in f30k if "bert" in name or name.startswith("clip")}  # heavier
    assert {name.removesuffix("_f8k") for name in FILES} == f30k - others


@pytest.mark.parametrize("name", FILES)
def test_a_file_creates_its_model_and_says_what_it_is(name):
    config = load(name)
    model = models.create(config.model.name, **SIZES, **config.model.options)
    assert type(model).__name__.lower() == config.model.name
    assert (config.data.train, config.data.val) == ("train", "val")
    head = re.match(r"(#.*\n)+", FILES[name].read_text())[0]
    assert "Flickr8k" in head
    assert "No paper has th" in head


@pytest.mark.parametrize("name", LEARNED)
def test_they_are_those_of_flickr30k_with_the_small_settings(name):
    path = FILES[name].parents[1] / "compare" / "small.yaml"
    small = yaml.safe_load(path.read_text())
    kind = load(name).model.name
    changes = {**small["all"], **small.get(kind, {})}
    # as many as gain something in half an hour of one core, see docs/results.md
    changes["run.epochs"] = {"vse": 4, "sgm": 4, "gsmn": 6, "scan": 8, "hrem": 8}.get(kind, 3)
    if kind == "sgm":  # see docs/results.md
        changes["optim.lr"] /= 2
    words = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
    wanted, found = (
        to_dict(one) for one in (load(name.replace("_f8k", "_f30k"), words), load(name))
    )
    for tree in (wanted, found):  # of the step schedule, which neither has
        for key in ("milestones", "gamma"):
            tree["schedule"].pop(key)
        tree["run"].pop("folder")
    assert found == wanted


def test_words_alone_are_all_words_of_the_graph():
    options = models.build_options("tfidf", **load("tfidf_f8k").model.options)
    assert (options.attributes, options.predicates, options.confidence) == (True, True, False)
