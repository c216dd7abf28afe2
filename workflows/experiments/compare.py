"""``CompareModels``: train and evaluate the rows of published tables, and compare the numbers.

A row of an ablation table is a row whose ``options`` change a published configuration.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luigi
import yaml

from features.errors import ConfigError, MissingInput, UnknownName
from features.format import replacing
from workflows.experiments.training import EvaluateRuns, TrainModel, config_file
from workflows.tasks import EntryTask

PUBLISHED = Path(__file__).resolve().parent / "data" / "published.yaml"
SUFFIX = {"f30k": "f30k", "coco": "coco", "ablation": "f30k"}  # in the names of configurations
IMAGES = {"f30k": 1000, "coco": 5000, "ablation": 1000}  # in the test split of the papers
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")


def published_rows(papers: str, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the published rows of some papers.

    Args:
        papers: names separated by commas: ``gsmn`` for all rows of GSMN, ``gsmn_dense`` for one.
        benchmark: ``f30k``, ``coco`` or ``ablation``.

    Raises: UnknownName: no such benchmark, paper or row.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
        PUBLISHED.read_text(encoding="utf-8")
    )
    if benchmark not in tables:
        raise UnknownName.of("benchmark", benchmark, tables)
    rows = tables[benchmark]
    chosen: dict[str, dict[str, Any]] = {}
    for paper in (word.strip() for word in papers.split(",") if word.strip()):
        found = {name: row for name, row in rows.items() if _of_paper(name, paper)}
        if not found:
            raise UnknownName.of("paper or row", paper, {*rows, *(n.split("_")[0] for n in rows)})
        chosen |= found
    return chosen


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
        tree = yaml.safe_load(config_file(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror
        raise MissingInput(f"{path}: cannot be read ({reason}). Check --changes.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise ConfigError(f"{path}: must map 'all' or names of papers to options.")
    return {str(name): _words(options) for name, options in tree.items()}


def _words(options: dict[str, Any]) -> list[str]:
    """Return options as command-line words: ``--optim.lr 0.001``."""
    return [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]


def _of_paper(name: str, paper: str) -> bool:
    return name == paper or name.startswith(f"{paper}_")


class CompareModels(EntryTask):
    """Train and evaluate the models of published tables, and compare the numbers."""

    papers = luigi.Parameter(
        default="sgm,gsmn,racg_gru,hrem_gru,cfsgr,scan,vse,tfidf",
        description="papers or rows, separated by commas: sgm,gsmn_dense,hrem_gru ...",
    )
    store = luigi.Parameter(description="store folder or store manifest")
    benchmark = luigi.ChoiceParameter(
        default="f30k", choices=[*SUFFIX], description="the published table and its configurations"
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
    fold5 = luigi.BoolParameter(description="average over five folds (COCO 1K)")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows to fill. Raises: UnknownName: a paper, here or in the changes."""
        for name in read_changes(self.changes):
            if name != "all":
                published_rows(name, self.benchmark)
        return published_rows(self.papers, self.benchmark)

    def training(self, config: str, seed: int, row: str, options: dict[str, Any]) -> TrainModel:
        """Return the training of one configuration, changed by the options of a row."""
        path = config_file(f"{config}_{SUFFIX[self.benchmark]}")
        if not path.exists():
            raise MissingInput(f"{path}: no such configuration for row {row!r}.")
        words: list[str] = []
        for paper, more in {"all": [], **read_changes(self.changes)}.items():
            words += more if paper == "all" or _of_paper(config, paper) else []
        words += _words({f"model.options.{key}": value for key, value in options.items()})
        words += [*shlex.split(self.overrides), "--run.seed", str(seed)]
        folder = Path(self.out) / "runs" / f"{row if options else config}-seed{seed}"
        return self.clone(
            TrainModel, config=str(path), run_dir=str(folder), overrides=shlex.join(words)
        )

    def trainings(self, name: str, row: dict[str, Any], seed: int) -> list[TrainModel]:
        """Return the trainings of a row, several for an ensemble."""
        options = row.get("options", {})
        return [self.training(config, seed, name, options) for config in row["configs"]]

    def evaluation(self, name: str, row: dict[str, Any], seed: int) -> EvaluateRuns:
        """Return the evaluation of a row: of its run, or of the ensemble of its runs."""
        return self.clone(
            EvaluateRuns,
            runs=[str(task.folder) for task in self.trainings(name, row, seed)],
            results=str(Path(self.out) / "results" / f"{name}-seed{seed}.json"),
        )

    def work(self) -> Iterator[list[luigi.Task]]:
        """Train every configuration once, evaluate every row and write the tables."""
        rows, seeds = self.rows(), range(self.seeds)
        needed = {
            task.task_id: task
            for seed in seeds
            for name, row in rows.items()
            for task in self.trainings(name, row, seed)
        }
        yield list(needed.values())
        evaluations = {
            name: [self.evaluation(name, row, seed) for seed in seeds] for name, row in rows.items()
        }
        yield [task for tasks in evaluations.values() for task in tasks]
        document = {
            "benchmark": self.benchmark,
            "split": self.split,
            "overrides": self.overrides,
            "changes": self.changes,
            "seeds": self.seeds,
            "rows": [
                _summarise(name, row, [_read(task) for task in evaluations[name]])
                for name, row in rows.items()
            ],
        }
        table = as_markdown(document)
        texts = {"compare.json": json.dumps(document, indent=1) + "\n", "compare.md": table}
        for name, text in texts.items():
            with replacing(Path(self.out) / name) as partial:
                partial.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{table}\ntable: {Path(self.out) / 'compare.md'}\n")


def _read(task: EvaluateRuns) -> dict[str, Any]:
    """Return the last row of an evaluation: the ensemble if there is one."""
    document = json.loads(Path(task.results).read_text(encoding="utf-8"))
    chance, images = document["chance"]["rsum"], document["images"]
    return {**document["rows"][-1], "chance": chance, "images": images}


def _summarise(name: str, row: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, the published numbers and their difference."""
    metrics = {
        key: statistics.fmean(one["metrics"][key] for one in found) for key in (*RECALLS, "rsum")
    }
    published = {key: value for key, value in zip(RECALLS, row["recalls"], strict=False) if value}
    total = round(sum(published.values()), 1) if published else None
    return {
        "name": name,
        "configs": row["configs"],
        "source": row["source"],
        "metrics": metrics,
        "rsum_seeds": [one["metrics"]["rsum"] for one in found],
        "rsum_interval": found[0]["intervals"].get("rsum"),
        "published": {**published, "sum": total},
        "difference": None if total is None else sum(metrics[key] for key in published) - total,
        "chance": found[0]["chance"],
        "images": found[0]["images"],
    }


def as_markdown(document: dict[str, Any]) -> str:
    """Return the comparison as a Markdown table, best rSum first."""
    rows, benchmark_images = document["rows"], IMAGES[document["benchmark"]]
    images, chance = rows[0]["images"], rows[0]["chance"]
    lines = [
        "| row | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rSum | 95 % | paper's rSum | diff |",
        "|---|" + "---:|" * 10,
    ]
    for row in sorted(rows, key=lambda one: -one["metrics"]["rsum"]):
        cells = [f"{row['metrics'][key]:.1f}" for key in (*RECALLS, "rsum")]
        intervals = []
        if row["rsum_interval"]:
            intervals.append("{:.1f}-{:.1f}".format(*row["rsum_interval"]))
        if len(row["rsum_seeds"]) > 1:
            intervals.append(f"{min(row['rsum_seeds']):.1f}-{max(row['rsum_seeds']):.1f} (seeds)")
        published, recalls = row["published"]["sum"], len(row["published"]) - 1
        part = f" of {recalls} recalls" if recalls < len(RECALLS) else ""
        paper = f"{published:.1f}{part} ({row['source']})" if published else "-"
        comparable = published and images == benchmark_images
        difference = f"{row['difference']:+.1f}" if comparable else "-"
        cells = [row["name"], *cells, ", ".join(intervals), paper, difference]
        lines.append(f"| {' | '.join(cells)} |")
    settings = [f"{key}: {document[key]}" for key in ("changes", "overrides") if document[key]]
    counts = f"Split {document['split']} with {images:,} images, {document['seeds']} seed(s)"
    lines += ["", ", ".join([counts, f"chance rSum {chance:.1f}", *settings])]
    if images != benchmark_images:
        lines += [
            "",
            f"The papers report numbers for {benchmark_images:,} other images, so the table shows "
            "no difference.",
        ]
    return "\n".join(lines) + "\n"
