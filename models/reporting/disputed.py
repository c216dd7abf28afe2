"""Which reading of every disputed step a configuration has, and which published rows it equals.

``disputed.yaml`` lists the steps. The published rows are the data files of ``workflows``, which lie
beside this package; nothing of ``workflows`` is imported.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from features.errors import MissingInput
from features.yaml_text import own_yaml
from models.configuration import Config, load, to_dict
from models.registry import build_options

PUBLISHED = Path(__file__).resolve().parents[2] / "workflows" / "experiments" / "data" / "published"
_OF_DATA = {"image_dim", "vocab_size", "n_labels", "n_predicates", "n_tags", "word_dim"}
_NEUTRAL = {  # settings that do not belong to an experiment
    *("data.store", "data.eval_batch_size", "data.vocab", "model.options.bert"),
    *(f"run.{key}" for key in ("folder", "seed", "device", "deterministic", "threads", "resume")),
    *(f"run.{key}" for key in ("eval_epochs", "eval_steps", "save_steps", "log_steps")),
    "run.tensorboard",
}


@dataclass(frozen=True)
class Reading:
    """A disputed step: the option that decides it, its value and what that means."""

    step: str
    option: str
    value: Any
    meaning: str


@functools.cache
def disputed() -> dict[str, dict[str, dict[Any, Any]]]:
    """Return the disputed steps: group -> option -> value -> meaning."""
    path = Path(__file__).with_suffix(".yaml")
    content: dict[str, dict[str, dict[Any, Any]]] = own_yaml(path)
    return content


def readings(config: Config) -> list[Reading]:
    """Return the reading of every disputed step that a configuration decides."""
    values = settings(config)
    name = config.model.name
    own = disputed().get(name, {})
    shared = {} if not own else disputed()["every model"]
    found = []
    for option, table in {**own, **shared, **disputed()["training"]}.items():
        if option not in values or (option == "optim.lr_scale" and not values[option]):
            continue
        when, unless = table.get("when", {}), table.get("unless", {})
        if any(values[key] != value for key, value in when.items()) or any(
            values[key] == value for key, value in unless.items()
        ):
            continue
        value = values[option]
        meaning = table.get(value) if not isinstance(value, dict) else None
        found.append(Reading(table["step"], option, value, meaning or table.get("else", "")))
    return found


def settings(config: Config) -> dict[str, Any]:
    """Return all settings by ``section.key``, options of the model with their defaults.

    Raises: UnknownName, ConfigError: no such model or option.
    """
    tree = to_dict(config)
    options = dataclasses.asdict(build_options(config.model.name, **config.model.options))
    flat = {f"model.options.{key}": value for key, value in options.items()}
    for section in ("data", "optim", "schedule", "run"):
        flat |= {f"{section}.{key}": value for key, value in tree[section].items()}
    return flat


@dataclass(frozen=True)
class Match:
    """A published row beside a configuration.

    Attributes:
        row: name.   source: ``HREM Table 3b``.   label: of the row.
        protocol: data set and protocol.   numbers: as printed.
        differences: settings that differ, as text; none if the configuration equals the row.
        part: one of several runs of an ensemble.
    """

    row: str
    source: str
    label: str
    protocol: str
    numbers: dict[str, float]
    differences: tuple[str, ...]
    part: bool


def published_rows(config: Config) -> list[Match]:
    """Compare a configuration with the runs of all published rows, nearest rows first.

    Raises: MissingInput: the data of published rows are not installed.
    """
    own = settings(config)
    found = []
    for paper, row in _rows(PUBLISHED):
        runs = (row["ours"] or {}).get("runs", ())
        matches = [
            _match(paper, row, own, _settings_of(run["config"], _words(run.get("changes", {}))))
            for run in runs
            if row["numbers"] and _model_of(run["config"]) == config.model.name
        ]
        if matches:  # the nearest run of an ensemble
            found.append(min(matches, key=lambda match: len(match.differences)))
    return sorted(found, key=lambda match: (len(match.differences), match.part))


@functools.cache
def _rows(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the paper and content of each row. Raises: MissingInput: there are none."""
    files = [own_yaml(path) for path in sorted(folder.glob("*.yaml"))]
    if not files:
        raise MissingInput(f"{folder}: has no published rows. Install scenestore as a whole.")
    return [
        (row.get("source", content["paper"]), row) for content in files for row in content["rows"]
    ]


@functools.cache
def _model_of(name: str) -> str:
    return load(name).model.name


@functools.cache
def _settings_of(name: str, words: tuple[str, ...]) -> dict[str, Any]:
    return settings(load(name, words))


def _words(changes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"--{key}={yaml.safe_dump(value)}" for key, value in changes.items())


def _match(paper: str, row: dict[str, Any], own: dict[str, Any], theirs: dict[str, Any]) -> Match:
    skipped = _NEUTRAL | set(row["ours"].get("open", ())) - {"data.neighbours_from"}
    skipped |= {f"model.options.{key}" for key in _OF_DATA}
    differences = [
        f"{key} {own[key]} instead of {value}"
        for key, value in theirs.items()
        if key not in skipped and own[key] != value and not _both_have_neighbours(key, own, theirs)
    ]
    needs = row["ours"].get("needs", ())
    if "bert-base" in needs and own.get("model.options.bert") == "minilm":
        differences.append("model.options.bert minilm instead of a BERT-base")
    vectors = next((need for need in needs if need in ("glove", "word2vec")), "")
    if vectors and own["data.vectors"] in ("none", "minilm"):
        differences.append(f"data.vectors {own['data.vectors']} instead of {vectors}")
    elif vectors:
        differences = [one for one in differences if not one.startswith("data.vectors ")]
    return Match(
        row["name"],
        f"{paper} Table {row['table']}",
        row["label"],
        f"{row['dataset']} {row['protocol']}" + (", re-ranked" if row["rerank"] else ""),
        row["numbers"],
        tuple(differences),
        bool(row["ensemble"]),
    )


def _both_have_neighbours(key: str, own: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether both begin with neighbours at some epoch, which the paper does not state."""
    return key == "data.neighbours_from" and bool(own[key]) == bool(theirs[key])
