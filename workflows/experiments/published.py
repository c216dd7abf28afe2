"""The rows of published tables: read, select and list them, and compare protocols.

Each file of ``data/published`` is a paper, or any other list of rows; a new file is found without a
change here. ``data/published/README.md`` explains the keys.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from features.errors import UnknownName, UsageError
from features.yaml_text import own_yaml

FOLDER = Path(__file__).resolve().parent / "data" / "published"
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")
ABLATION = "ablation"  # the benchmark of all ablation tables
ALIASES = {"flickr8k": "f8k", "flickr30k": "f30k"}
DATASETS = {"f30k": "Flickr30K", "coco": "MS-COCO", "f8k": "Flickr8k"}
MAIN = "sgm,gsmn,racg_gru,hrem_*_gru_fusion,cfsgr,sgm_*_scan_t2i*,vse,tfidf"  # one row a model
PROTOCOLS = {  # images, mean of five folds
    "1k": (1000, False),
    "coco_1k_folds": (5000, True),
    "coco_5k": (5000, False),
}
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12}
_NEUTRAL = {  # settings that do not belong to an experiment
    "data": {"store", "eval_batch_size"},
    "run": {
        *("folder", "seed", "device", "deterministic", "threads", "resume", "eval_epochs"),
        *("eval_steps", "save_steps", "log_steps", "tensorboard"),
    },
}


_STATED: dict[str, dict[str, Any]] = {  # defaults that belong to every row
    "data": {"train": "train"},
    "run": {"max_steps": 0},
}


@dataclass(frozen=True)
class TrainedRun:
    """A training of a row: a configuration and what the row changes in it."""

    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # section.key -> value


@dataclass(frozen=True)
class Row:
    """A row of a published table.

    Attributes:
        name, table, label, method, dataset, protocol, split, ensemble, rerank, text, regions,
        numbers: see the README of the data.
        file: name of its file.   paper: the heading of the file.
        benchmark: the data set, or ``ablation``.
        runs: what to train, none if this package cannot make the row.
        needs: what a user has to bring.   open: settings that the paper does not state.
        why: why the row cannot be made.
        cited: where the numbers are from, in files that quote several papers; else "".
    """

    name: str
    file: str
    paper: str
    benchmark: str
    table: str
    label: str
    method: str
    dataset: str
    protocol: str
    split: str
    ensemble: bool
    rerank: bool
    text: str
    regions: str
    numbers: Mapping[str, float]
    runs: tuple[TrainedRun, ...]
    needs: tuple[str, ...]
    open: tuple[str, ...]
    why: str
    cited: str = ""

    @property
    def source(self) -> str:
        """Where the numbers are printed; a table whose number is not known is left out."""
        if not self.numbers:
            return ""
        if not self.cited:
            return f"{self.paper} Table {self.table}"
        table = {"?": "", "-": ", released code"}.get(self.table, f", Table {self.table}")
        return self.cited + table

    @property
    def fold5(self) -> bool:
        """Whether the numbers are means of five folds."""
        return PROTOCOLS[self.protocol][1]

    @property
    def sum(self) -> float | None:
        """Sum of the printed recalls; None if there are none."""
        printed = [self.numbers[key] for key in RECALLS if key in self.numbers]
        return round(sum(printed), 1) if printed else None


@functools.cache
def all_rows() -> tuple[Row, ...]:
    """Return the rows of all files."""
    return tuple(row for path in sorted(FOLDER.glob("*.yaml")) for row in _read(path))


def _read(path: Path) -> Iterator[Row]:
    content = own_yaml(path)
    given = "name table label method dataset protocol split ensemble rerank text regions numbers"
    for row in content["rows"]:
        ours = row["ours"] or {}
        table = str(row["table"])
        yield Row(
            **{key: row[key] for key in given.split()},
            file=path.stem,
            paper=content["paper"],
            cited=content["papers"][row["source"]] if "papers" in content else "",
            benchmark=ABLATION if table in content.get("ablations", ()) else row["dataset"],
            runs=tuple(TrainedRun(**run) for run in ours.get("runs", ())),
            needs=tuple(ours.get("needs", ())),
            open=tuple(ours.get("open", ())),
            why=row.get("why", ""),
        )


def select(names: str, benchmark: str) -> list[Row]:
    """Return rows of a benchmark that this package can make.

    Args:
        names: separated by commas: a row; the beginning of names, such as ``hrem_t1``; a
            pattern, such as ``hrem_*_gru_*``; a method, for the rows about it in its own paper
            and those without published numbers; the beginning of a configuration's name, such as
            ``racg_gru``, likewise. Without any: a row for each model.
        benchmark: a data set of the rows, or ``ablation``.

    Raises:
        UnknownName: no such benchmark, or nothing has such a name.
        UsageError: the benchmark has no such row, or none of them can be made.
    """
    rows = all_rows()
    benchmark = benchmark_of(benchmark)
    if not names:  # of a data set without published rows of our models, all
        published = any(row.numbers and row.runs and row.benchmark == benchmark for row in rows)
        names = MAIN if published else "*"
    chosen: dict[str, Row] = {}
    for name in (word.strip() for word in names.split(",")):
        if not name:
            continue
        exact = [row for row in rows if row.name == name]
        found = exact or [row for row in rows if is_named(row, name)]
        if not found:
            known = {row.name for row in rows} | {row.method for row in rows}
            raise UnknownName.of("paper or row", name, known)
        chosen |= {row.name: row for row in found if row.benchmark == benchmark}
    made = [row for row in chosen.values() if row.runs]
    if not made:
        why = next((f" ({row.name}: {' '.join(row.why.split())})" for row in chosen.values()), "")
        raise UsageError(
            f"benchmark {benchmark!r} has no row {names!r} that can be made{why}. "
            "CompareModels --list prints all rows."
        )
    return made


def benchmark_of(name: str) -> str:
    """Return a benchmark by its name or the full name of its data set, such as ``flickr8k``.

    Raises: UnknownName: no row has such a benchmark.
    """
    benchmarks = sorted({row.benchmark for row in all_rows()})
    if name not in benchmarks and ALIASES.get(name.lower()) in benchmarks:
        return ALIASES[name.lower()]
    if name not in benchmarks:
        raise UnknownName.of("benchmark", name, benchmarks)
    return name


def quoted(benchmark: str) -> list[Row]:
    """Return the rows of other papers' methods that a file quotes for a data set.

    The best comes first in each protocol. Numbers that several tables repeat are listed once.
    """
    rows = [row for row in all_rows() if row.cited and row.benchmark == benchmark]
    once = {(row.protocol, *(row.numbers.get(key) for key in RECALLS)): row for row in rows[::-1]}
    return sorted(
        once.values(),
        key=lambda row: (
            row.protocol,
            -sum(key in row.numbers for key in RECALLS),
            -(row.sum or 0),
        ),
    )


def is_named(row: Row, name: str) -> bool:
    """Return whether a name, pattern, method or configuration of ``select`` means this row."""
    if row.name == name or (row.name.startswith(f"{name}_") and name not in _own_papers()):
        return True
    if any(sign in name for sign in "*?["):
        return fnmatchcase(row.name, name)
    if row.numbers and row.method in _own_papers() and row.file != row.method:
        return False  # printed again by another paper
    configs = [run.config for run in row.runs]
    of_config = bool(configs) and all(_starts(config, name) for config in configs)
    return row.method == name or of_config


@functools.cache
def _own_papers() -> frozenset[str]:
    """Return the methods that have a file of their own."""
    return frozenset({row.method for row in all_rows()} & {row.file for row in all_rows()})


def _starts(name: str, start: str) -> bool:
    return name == start or name.startswith(f"{start}_")


def concerns(name: str, row: Row, config: str) -> bool:
    """Return whether changes for ``name`` concern a training of a row."""
    return name == "all" or _starts(config, name) or is_named(row, name)


# Protocols


def describe(images: int, *, fold5: bool, rerank: bool = False) -> str:
    """Return an evaluation protocol in words: ``1,000 images``."""
    words = f"five folds of {images // 5:,} images" if fold5 else f"{images:,} images"
    return words + (", re-ranked" if rerank else "")


def protocol_of(row: Row) -> str:
    """Return the published protocol of a row in words."""
    images, fold5 = PROTOCOLS[row.protocol]
    return describe(images, fold5=fold5, rerank=row.rerank)


def unlike(row: Row, document: Mapping[str, Any], expected: list[dict[str, Any]]) -> list[str]:
    """Return why the numbers of an evaluation cannot be subtracted from those of a row.

    Args:
        row: the published row.   document: results of ``models.evaluate``.
        expected: the configuration of each run as published, as nested dicts.
    """
    images, fold5 = PROTOCOLS[row.protocol]
    found = []
    ours, theirs = (document["images"], document["fold5"]), (images, fold5)
    if ours != theirs:
        found.append(
            f"{describe(ours[0], fold5=ours[1])}, the paper {describe(images, fold5=fold5)}"
        )
    if document["split"] != row.split:
        found.append(f"split {document['split']}, the paper {row.split}")
    if document["precision"] != "float32":
        found.append(f"scores in {document['precision']}")
    for run, wanted in zip(document["runs"], expected, strict=True):
        config = run["config"]
        if row.text == "bert-base" and (problem := _not_bert_base(config["model"]["options"])):
            found.append(problem)
        found += _other_model(row, config, wanted)
    return list(dict.fromkeys(found))


def _not_bert_base(options: Mapping[str, Any]) -> str:
    """Return what text encoder a run has instead of BERT-base; "" if it has BERT-base."""
    source = options.get("bert", "minilm")
    if source == "minilm":
        return "text encoder MiniLM, the paper BERT-base"
    try:
        sizes = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{source}: cannot be read, so it may not be the paper's BERT-base"
    if {key: sizes.get(key) for key in BERT_BASE} != BERT_BASE:
        return f"text encoder {source}, which has not the sizes of BERT-base"
    return ""


def _other_model(row: Row, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return options of the model, and neighbours, that differ from those of the row."""
    found = []
    own, published = config["model"]["options"], wanted["model"].get("options", {})
    for key in sorted({*own, *published} - {"bert"}):
        if f"model.options.{key}" not in row.open and own.get(key) != published.get(key):
            if key in published and key in own:
                found.append(f"{key} is {own[key]!r}, the paper's row has {published[key]!r}")
            elif key in own:
                found.append(f"{key} is {own[key]!r}, which the paper's row does not set")
            else:
                found.append(f"{key} is not set, the paper's row has {published[key]!r}")
    first, theirs = (tree.get("data", {}).get("neighbours_from", 0) for tree in (config, wanted))
    if bool(first) != bool(theirs):
        words = ("no batches of neighbours", "batches of neighbours")
        found.append(f"{words[bool(first)]}, the paper's row has {words[bool(theirs)]}")
    return found


def changed(row: Row, document: Mapping[str, Any], expected: list[dict[str, Any]]) -> list[str]:
    """Return settings of training, not of the model, that differ from those of a row."""
    found = []
    for run, wanted in zip(document["runs"], expected, strict=True):
        config = run["config"]
        vectors = next((need for need in row.needs if need in ("glove", "word2vec")), "")
        if vectors and config["data"]["vectors"] in ("none", "minilm"):
            found.append(f"data.vectors {config['data']['vectors']}, the paper {vectors}")
        for section in ("data", "optim", "schedule", "run"):
            published = {**_STATED.get(section, {}), **wanted.get(section, {})}
            found += [
                f"{section}.{key} {config[section][key]} instead of {value}"
                for key, value in published.items()
                if key not in _NEUTRAL.get(section, ())
                and f"{section}.{key}" not in row.open
                and not _same(config[section][key], value)
            ]
    return list(dict.fromkeys(found))


def _same(one: object, other: object) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return list(one) == list(other)
    return one == other


# Lists


def listing(rows: tuple[Row, ...]) -> str:
    """Return all rows as text, one line each, with what makes them."""
    lines = []
    for row in rows:
        numbers = " ".join(f"{key} {value:g}" for key, value in row.numbers.items())
        if row.runs:
            made = " + ".join(
                run.config + "".join(f" {key}={_text(value)}" for key, value in run.changes.items())
                for run in row.runs
            )
            made += "".join(f" [needs {need}]" for need in row.needs)
        else:
            made = f"cannot be made: {' '.join(row.why.split())}"
        parts = (
            row.name,
            row.source or "no published numbers",
            row.label,
            f"{row.dataset} {row.split}, {protocol_of(row)}",
            f"text {row.text}, regions {row.regions}",
            numbers or "-",
            made,
        )
        lines.append(" | ".join(parts))
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
