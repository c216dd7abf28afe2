"""``CompareModels``: train and evaluate the rows of published tables, and compare the numbers.

A row is one or several configurations with changes, and the protocol of its numbers. Numbers of
another protocol, such as those of five folds beside those of all images, are never subtracted.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import luigi
import numpy as np
import yaml

from features.errors import ConfigError, MissingInput, UnknownName, UsageError
from features.format import read_store_manifest, replacing, store_manifest_path
from features.plugins import VARIABLE, inherited
from features.store import open_store
from features.yaml_text import parse_yaml
from workflows.experiments import published
from workflows.experiments.cards import make_card
from workflows.experiments.published import RECALLS, Row, TrainedRun
from workflows.experiments.tables import as_markdown
from workflows.experiments.training import EvaluateRuns, TrainModel, config_file
from workflows.launcher import run_in_group
from workflows.tasks import EntryTask

Rows = list[Row]  # the task below has a parameter named list
METRICS = (*RECALLS, "rsum", "i2t_medr", "t2i_medr")
_REPEATED: dict[str, Any] = {  # parameters that numbers depend on -> their defaults
    "store": "",
    "split": "test",
    "seeds": 1,
    "overrides": "",
    "changes": "",
    "rerank_top": 15,
}
PRINTED = {"medr_i2t": "i2t_medr", "medr_t2i": "t2i_medr"}  # names in the data -> ours


def read_changes(path: str) -> dict[str, list[str]]:
    """Read options that override published configurations.

    Args:
        path: a YAML file, or ``small`` for the shipped one; "" for no changes.

    Returns:
        {paper, row or ``all``: ``["--section.key", "value", ...]``}.

    Raises:
        MissingInput: the file cannot be read.
        ConfigError: it is not YAML, or does not map names to options.
    """
    if not path:
        return {}
    try:
        tree = parse_yaml(config_file(path).read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}).") from error
    except OSError as error:
        reason = error.strerror
        raise MissingInput(f"{path}: cannot be read ({reason}). Check --changes.") from error
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise ConfigError(f"{path}: must map 'all' or names of papers to options.")
    return {str(name): _words(options) for name, options in tree.items()}


def _words(options: Any) -> list[str]:
    """Return options as command-line words: ``--optim.lr 0.001``."""
    return [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]


class CompareModels(EntryTask):
    """Train and evaluate the models of published tables, and compare the numbers."""

    papers = luigi.Parameter(
        default="",
        description="papers, rows or patterns, separated by commas: sgm,gsmn_dense,hrem_t1 ...; "
        "default: every model",
    )
    store = luigi.Parameter(default="", description="store folder or store manifest")
    benchmark = luigi.Parameter(
        default="f30k",
        description="the rows: a data set of --list, such as coco or flickr8k, or 'ablation'",
    )
    split = luigi.Parameter(default="test", description="split to evaluate")
    seeds = luigi.IntParameter(default=1, description="runs per configuration, seeds 0, 1, ...")
    overrides = luigi.Parameter(
        default="", description="options for every training, such as '--run.epochs 5'"
    )
    changes = luigi.Parameter(
        default="", description="YAML file with options for all papers, and for single ones"
    )
    out = luigi.Parameter(default="compare", description="folder for runs and tables")
    gpus = luigi.IntParameter(default=0, significant=False, description="GPUs per training")
    rerank_top = luigi.IntParameter(default=15, description="captions per image to re-rank")
    whole = luigi.BoolParameter(
        description="evaluate all images at once, also for rows with five folds"
    )
    list = luigi.BoolParameter(description="print all published rows and stop")

    def rows(self) -> Rows:
        """Return the rows to fill. Raises: UnknownName: a paper, here or in the changes."""
        for name in read_changes(self.changes):
            known = published.all_rows()
            if not any(
                published.concerns(name, row, run.config) for row in known for run in row.runs
            ):
                raise UnknownName.of("paper or row", name, {row.method for row in known})
        return published.select(self.papers, self.benchmark)

    def training(self, row: Row, run: TrainedRun, seed: int) -> TrainModel:
        """Return one training of a row; rows with the same runs share it."""
        path = config_file(run.config)
        if not path.exists():
            raise MissingInput(f"{path}: no such configuration for row {row.name!r}.")
        words: list[str] = []
        for name, more in {"all": [], **read_changes(self.changes)}.items():
            words += more if published.concerns(name, row, run.config) else []
        words += _words(run.changes)
        words += [*shlex.split(self.overrides), "--run.seed", str(seed)]
        folder = Path(self.out) / "runs" / f"{_run_name(run)}-seed{seed}"
        return self.clone(
            TrainModel, config=str(path), run_dir=str(folder), overrides=shlex.join(words)
        )

    def evaluation(self, row: Row, seed: int) -> EvaluateRuns:
        """Return the evaluation of a row: of its run, or of the ensemble of its runs."""
        return self.clone(
            EvaluateRuns,
            runs=[str(self.training(row, run, seed).folder) for run in row.runs],
            results=str(Path(self.out) / "results" / f"{row.name}-seed{seed}.json"),
            fold5=row.fold5 and not self.whole,
            rerank=row.rerank,
        )

    def work(self) -> Iterator[Any]:
        """Train every configuration once, evaluate every row and write the tables."""
        if self.list:
            sys.stdout.write(published.listing(published.all_rows()))
            return
        if not self.store:
            raise UsageError("CompareModels needs a store. Pass --store FOLDER, or --list.")
        rows, seeds = self.rows(), range(self.seeds)
        needed = [
            self.training(row, run, seed) for seed in seeds for row in rows for run in row.runs
        ]
        yield [*{task.task_id: task for task in needed}.values()]
        evaluations = {row.name: [self.evaluation(row, seed) for seed in seeds] for row in rows}
        yield [task for tasks in evaluations.values() for task in tasks]
        benchmark = published.benchmark_of(self.benchmark)
        found = {
            name: [json.loads(Path(task.results).read_text(encoding="utf-8")) for task in tasks]
            for name, tasks in evaluations.items()
        }
        cards = {row.name: self.card(row, found[row.name]) for row in rows}
        document: dict[str, Any] = {
            "benchmark": benchmark,
            "split": self.split,
            "photos": describe_photos(self.store, self.split),
            "overrides": self.overrides,
            "changes": self.changes,
            "seeds": self.seeds,
            "rows": [{**summarise(row, found[row.name]), "card": cards[row.name]} for row in rows],
            "cards": {name: str(self.card_file(name)) for name in cards},
            "quoted": [quote(row) for row in published.quoted(benchmark)],
        }
        ranks = {name: [task.ranks for task in tasks] for name, tasks in evaluations.items()}
        document["differences"] = self._differences(document["rows"], ranks)
        table = as_markdown(document)
        texts = {Path(self.out) / "compare.json": document, Path(self.out) / "compare.md": table}
        texts |= {self.card_file(name): card for name, card in cards.items()}
        for path, text in texts.items():
            with replacing(path) as partial:
                written = text if isinstance(text, str) else json.dumps(text, indent=1) + "\n"
                partial.write_text(written, encoding="utf-8")
        sys.stdout.write(f"{table}\ntable: {Path(self.out) / 'compare.md'}\n")

    def card_file(self, name: str) -> Path:
        """Return the file with the card of a row."""
        return Path(self.out) / "cards" / f"{name}.json"

    def card(self, row: Row, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the reproducibility card of a row; ``found`` has its results, one per seed."""
        manifest = read_store_manifest(store_manifest_path(Path(self.store)))
        return make_card(
            row.name,
            found,
            store=self.store,
            manifest=manifest,
            command=self.command(row),
            plugins=inherited().get(VARIABLE, ""),
        )

    def command(self, row: Row) -> str:
        """Return the command that trains and evaluates a row in another folder."""
        words = [f"{name}={value}" for name, value in inherited().items()]
        words += ["scenestore", "compare", "--papers", row.name, "--benchmark", row.benchmark]
        for name, default in _REPEATED.items():
            if (value := getattr(self, name)) != default:
                words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--whole"] if self.whole else []
        return shlex.join([*words, "--out", f"{self.out}-again"])

    def _differences(
        self, rows: Sequence[Mapping[str, Any]], ranks: Mapping[str, Sequence[Path]]
    ) -> dict[str, Any]:
        """Compare all rows of a protocol in pairs; ``models.compare`` does it in its own process.

        Args:
            rows: summaries.   ranks: row -> files with the ranks of each seed.
        """
        kinds: dict[str, list[str]] = {}
        for row in rows:
            kinds.setdefault(row["protocol"], []).append(row["name"])
        pairs: list[dict[str, Any]] = []
        samples = 0
        for number, names in enumerate(kinds.values()):
            if len(names) < 2:
                continue
            path = Path(self.out) / "results" / f".differences-{number}.json"
            files = [",".join(map(str, ranks[name])) for name in names]
            run_in_group([sys.executable, "-m", "models.compare", *files, "--json", str(path)])
            found = json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
            samples = found["samples"]
            pairs += [
                {"rows": [names[at] for at in pair["rows"]], "metrics": pair["metrics"]}
                for pair in found["differences"]
            ]
        return {"samples": samples, "pairs": pairs}


def _run_name(run: TrainedRun) -> str:
    """Return the configuration, with a digest of what a row changes in it."""
    if not run.changes:
        return run.config
    text = json.dumps(dict(run.changes), sort_keys=True)
    return f"{run.config}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def published_tree(run: TrainedRun) -> dict[str, Any]:
    """Return the configuration of a published run as nested dicts."""
    tree: dict[str, Any] = yaml.safe_load(config_file(run.config).read_text(encoding="utf-8"))
    for key, value in run.changes.items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree


def describe_photos(store: str, split: str) -> str:
    """Return the size of the photos of a split as the store has it, "" if it has none."""
    opened = open_store(store)
    if not opened.has("image_size"):
        return ""
    sizes = opened.column("image_size")[opened.image_rows(split)]
    known = sizes[(sizes > 0).all(1)]
    if not len(known):
        return ""
    width, height = sorted(np.median([known.max(1), known.min(1)], axis=1), reverse=True)
    return f"photos of {width:.0f} x {height:.0f} pixels (medians of the sides)"


def quote(row: Row) -> dict[str, Any]:
    """Return a row of another paper as JSON values."""
    keys = ("name", "label", "source", "regions", "ensemble")
    return {
        **{key: getattr(row, key) for key in keys},
        "protocol": published.protocol_of(row),
        "numbers": dict(row.numbers),
        "sum": row.sum,
    }


def summarise(row: Row, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, the published numbers, and their difference if they compare.

    Args:
        row: the published row.   found: results of ``models.evaluate``, one per seed.
    """
    last = [document["rows"][-1] for document in found]  # the ensemble and its re-ranking
    metrics = {key: statistics.fmean(one["metrics"][key] for one in last) for key in METRICS}
    numbers = {PRINTED.get(key, key): value for key, value in row.numbers.items()}
    recalls = [key for key in RECALLS if key in numbers]
    expected = [published_tree(run) for run in row.runs]
    unlike = [why for one in found for why in published.unlike(row, one, expected)]
    changed = [what for one in found for what in published.changed(row, one, expected)]
    first = found[0]
    comparable = bool(recalls) and not unlike
    return {
        "name": row.name,
        "label": row.label,
        "method": row.method,
        "source": row.source,
        "runs": [[one["folder"] for one in document["runs"]] for document in found],
        "protocol": published.describe(first["images"], fold5=first["fold5"], rerank=row.rerank),
        "published_protocol": published.protocol_of(row) if row.numbers else None,
        "metrics": metrics,
        "rsum_seeds": [one["metrics"]["rsum"] for one in last],
        "rsum_interval": last[0]["intervals"].get("rsum"),
        "published": {**numbers, "sum": row.sum},
        "difference": sum(metrics[key] - numbers[key] for key in recalls) if comparable else None,
        "unlike": [*dict.fromkeys(unlike)] if row.numbers else [],
        "changed": [*dict.fromkeys(changed)] if row.numbers else [],
        "chance": first["chance"]["rsum"],
        "images": first["images"],
    }
