"""Train and evaluate a set of published rows, and set the numbers beside the papers' own.

Ablation tables are the same thing: rows whose ``options`` change a published configuration.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import luigi
import yaml

from features.errors import ConfigError, MissingInput, UnknownName
from workflows.experiments.training import EvaluateRuns, TrainModel

__all__ = ["CompareModels", "published_rows", "read_changes"]

PUBLISHED = Path(__file__).resolve().parent / "data" / "published.yaml"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SUFFIX = {"f30k": "f30k", "coco": "coco", "ablation": "f30k"}  # of the configurations' names
IMAGES = {"f30k": 1000, "coco": 5000, "ablation": 1000}  # that the papers' recalls are about
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")


def published_rows(papers: str, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the papers that are asked for.

    Args:
        papers: names with commas; ``gsmn`` stands for all rows of GSMN, ``gsmn_dense`` for one.
        benchmark: ``f30k``, ``coco`` or ``ablation``.

    Raises: UnknownName: no such benchmark, paper or row.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(PUBLISHED.read_text())
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
    """Read what to change in published configurations: by paper or row, or for ``all`` of them.

    Args:
        path: YAML file as ``configs/compare/small.yaml``; "" = nothing is changed.

    Returns:
        {name: ``["--section.key", "value", ...]``}.

    Raises: MissingInput, ConfigError: no such file; not names over options.
    """
    if not path:
        return {}
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingInput(
            f"{path}: cannot be read ({error.strerror}). Check --changes."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise ConfigError(f"{path}: expected 'all' and names of papers, each over its options.")
    return {str(name): _words(options) for name, options in tree.items()}


def _words(options: dict[str, Any]) -> list[str]:
    """Return ``{"optim.lr": 1e-3}`` as words of a command line."""
    return [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]


def _of_paper(name: str, paper: str) -> bool:
    return name == paper or name.startswith(f"{paper}_")


class CompareModels(luigi.Task):
    """Train what is missing, evaluate, and write compare.md and compare.json."""

    papers = luigi.Parameter(
        default="sgm,gsmn,racg_gru,hrem_gru,cfsgr,scan,vse,tfidf",
        description="papers or rows with commas: sgm,gsmn_dense,hrem_gru ...",
    )
    store = luigi.Parameter(description="store folder or store manifest")
    benchmark = luigi.ChoiceParameter(
        default="f30k", choices=[*SUFFIX], description="whose configurations and numbers"
    )
    split = luigi.Parameter(default="test", description="split to evaluate on")
    seeds = luigi.IntParameter(default=1, description="runs per configuration, seeds 0, 1, ...")
    overrides = luigi.Parameter(
        default="", description="options for every training, for example '--run.epochs 5'"
    )
    changes = luigi.Parameter(
        default="", description="YAML file: options for all, and for some papers"
    )
    out = luigi.Parameter(default="compare", description="folder for runs and tables")
    gpus = luigi.IntParameter(default=0, significant=False, description="GPUs of each training")
    fold5 = luigi.BoolParameter(description="mean of five folds (COCO 1K)")

    _done = False

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler the error's message; Luigi would send a stack trace."""
        return f"{type(exception).__name__}: {exception}"

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows to fill. Raises: UnknownName: a paper, here or in the changes."""
        for name in read_changes(self.changes):
            if name != "all":
                published_rows(name, self.benchmark)
        return published_rows(self.papers, self.benchmark)

    def training(self, config: str, seed: int, row: str, options: dict[str, Any]) -> TrainModel:
        """Return the training of one configuration, changed by the options of a row."""
        path = CONFIGS / f"{config}_{SUFFIX[self.benchmark]}.yaml"
        if not path.exists():
            raise MissingInput(f"{path}: no such configuration for row {row!r}.")
        changes = read_changes(self.changes)
        words = list(changes.get("all", []))
        for paper, more in changes.items():
            words += more if _of_paper(config, paper) else []
        words += _words({f"model.options.{key}": value for key, value in options.items()})
        words += [*shlex.split(self.overrides), "--run.seed", str(seed)]
        folder = Path(self.out) / "runs" / f"{row if options else config}-seed{seed}"
        return TrainModel(
            config=str(path),
            store=self.store,
            run_dir=str(folder),
            overrides=shlex.join(words),
            gpus=self.gpus,
        )

    def trainings(self, name: str, row: dict[str, Any], seed: int) -> list[TrainModel]:
        """Return the trainings that one row is made of; several = an ensemble."""
        options = row.get("options", {})
        return [self.training(config, seed, name, options) for config in row["configs"]]

    def complete(self) -> bool:
        """Return True once this process has written the table."""
        return self._done

    def run(self) -> Any:
        """Train every configuration once, evaluate every row, write the table."""
        rows = self.rows()
        seeds = range(self.seeds)
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
        table = [
            _summarise(name, row, [_read(task) for task in evaluations[name]])
            for name, row in rows.items()
        ]
        out = Path(self.out)
        document = {
            "benchmark": self.benchmark,
            "split": self.split,
            "overrides": self.overrides,
            "changes": self.changes,
            "seeds": self.seeds,
            "rows": table,
        }
        (out / "compare.json").write_text(json.dumps(document, indent=1) + "\n")
        (out / "compare.md").write_text(as_markdown(document))
        sys.stdout.write(f"{as_markdown(document)}\ntable: {out / 'compare.md'}\n")
        self._done = True

    def evaluation(self, name: str, row: dict[str, Any], seed: int) -> EvaluateRuns:
        """Return the evaluation of one row: the run itself, or the ensemble of several."""
        return EvaluateRuns(
            runs=[str(task.folder) for task in self.trainings(name, row, seed)],
            store=self.store,
            split=self.split,
            fold5=self.fold5,
            results=str(Path(self.out) / "results" / f"{name}-seed{seed}.json"),
        )


def _read(task: EvaluateRuns) -> dict[str, Any]:
    """Return the last row of an evaluation, the ensemble if there is one."""
    document = json.loads(Path(task.results).read_text())
    chance, images = document["chance"]["rsum"], document["images"]
    return {**document["rows"][-1], "chance": chance, "images": images}


def _summarise(name: str, row: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds beside the published numbers."""
    metrics = {
        key: statistics.fmean(one["metrics"][key] for one in found) for key in (*RECALLS, "rsum")
    }
    printed = {key: found for key, found in zip(RECALLS, row["recalls"], strict=False) if found}
    total = round(sum(printed.values()), 1) if printed else None  # of the recalls that are printed
    spread = [one["metrics"]["rsum"] for one in found]
    return {
        "name": name,
        "configs": row["configs"],
        "source": row["source"],
        "metrics": metrics,
        "rsum_seeds": spread,
        "rsum_interval": found[0]["intervals"].get("rsum"),
        "published": {**printed, "sum": total},
        "difference": None if total is None else sum(metrics[key] for key in printed) - total,
        "chance": found[0]["chance"],
        "images": found[0]["images"],
    }


def as_markdown(document: dict[str, Any]) -> str:
    """Return the comparison as a Markdown table, best rSum first."""
    head = (
        "| row | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rSum | 95 % | paper's rSum | diff |"
    )
    lines = [head, "|---|" + "---:|" * 10]
    images, theirs_are = document["rows"][0]["images"], IMAGES[document["benchmark"]]
    for row in sorted(document["rows"], key=lambda one: -one["metrics"]["rsum"]):
        cells = [f"{row['metrics'][key]:.1f}" for key in (*RECALLS, "rsum")]
        low_high = row["rsum_interval"]
        interval = f"{low_high[0]:.1f}-{low_high[1]:.1f}" if low_high else ""
        if len(row["rsum_seeds"]) > 1:
            seeds = f"{min(row['rsum_seeds']):.1f}-{max(row['rsum_seeds']):.1f} (seeds)"
            interval = ", ".join(part for part in (interval, seeds) if part)
        published = row["published"]["sum"]
        few = f" of {len(row['published']) - 1} recalls" if len(row["published"]) < 7 else ""
        theirs = f"{published:.1f}{few} ({row['source']})" if published else "-"
        difference = f"{row['difference']:+.1f}" if published and images == theirs_are else "-"
        lines.append(
            f"| {row['name']} | {' | '.join(cells)} | {interval} | {theirs} | {difference} |"
        )
    chance = document["rows"][0]["chance"]
    lines.append("")
    lines.append(
        f"Split {document['split']} with {images:,} images, {document['seeds']} seed(s), chance "
        f"rSum {chance:.1f}"
        + "".join(f", {key}: {document[key]}" for key in ("changes", "overrides") if document[key])
    )
    if images != theirs_are:
        lines.append("")
        lines.append(
            f"The papers' numbers are about {theirs_are:,} other images; no difference is stated."
        )
    return "\n".join(lines) + "\n"
