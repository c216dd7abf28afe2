"""Train and evaluate a set of published rows, and set the numbers beside the papers' own."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import luigi
import yaml

from features.errors import MissingInput, UnknownName
from workflows.launcher import run_in_group
from workflows.training import TrainModel

__all__ = ["CompareModels", "published_rows"]

PUBLISHED = Path(__file__).resolve().parent / "data" / "published.yaml"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")


def published_rows(papers: str, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the papers that are asked for.

    Args:
        papers: names with commas; ``gsmn`` stands for all rows of GSMN, ``gsmn_dense`` for one.
        benchmark: ``f30k`` or ``coco``.

    Raises: UnknownName: no such benchmark, paper or row.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(PUBLISHED.read_text())
    if benchmark not in tables:
        raise UnknownName.of("benchmark", benchmark, tables)
    rows = tables[benchmark]
    chosen: dict[str, dict[str, Any]] = {}
    for paper in (word.strip() for word in papers.split(",") if word.strip()):
        found = {n: row for n, row in rows.items() if n == paper or n.startswith(f"{paper}_")}
        if not found:
            raise UnknownName.of("paper or row", paper, {*rows, *(n.split("_")[0] for n in rows)})
        chosen |= found
    return chosen


class CompareModels(luigi.Task):
    """Train what is missing, evaluate, and write compare.md and compare.json."""

    papers = luigi.Parameter(
        default="sgm,gsmn,racg_gru,hrem_gru,cfsgr,tfidf",
        description="papers or rows with commas: sgm,gsmn_dense,hrem_gru ...",
    )
    store = luigi.Parameter(description="store folder or store manifest")
    benchmark = luigi.ChoiceParameter(
        default="f30k", choices=["f30k", "coco"], description="whose configurations and numbers"
    )
    split = luigi.Parameter(default="test", description="split to evaluate on")
    seeds = luigi.IntParameter(default=1, description="runs per configuration, seeds 0, 1, ...")
    overrides = luigi.Parameter(
        default="", description="options for every training, for example '--run.epochs 5'"
    )
    model_overrides = luigi.DictParameter(
        default={},
        description='more options by paper, as JSON: \'{"gsmn": "--model.options.margin 0.1"}\'',
    )
    out = luigi.Parameter(default="compare", description="folder for runs and tables")
    gpus = luigi.IntParameter(default=0, significant=False, description="GPUs of each training")
    fold5 = luigi.BoolParameter(description="mean of five folds (COCO 1K)")

    _done = False

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler the error's message; Luigi would send a stack trace."""
        return f"{type(exception).__name__}: {exception}"

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows to fill."""
        return published_rows(self.papers, self.benchmark)

    def training(self, name: str, seed: int) -> TrainModel:
        """Return the training of one configuration with one seed."""
        config = CONFIGS / f"{name}_{self.benchmark}.yaml"
        if not config.exists():
            raise MissingInput(f"{config}: no such configuration for row {name!r}.")
        words = [*shlex.split(self.overrides), "--run.seed", str(seed)]
        for paper, more in self.model_overrides.items():
            if name == paper or name.startswith(f"{paper}_"):
                words += shlex.split(more)
        folder = Path(self.out) / "runs" / f"{name}-seed{seed}"
        return TrainModel(
            config=str(config),
            store=self.store,
            run_dir=str(folder),
            overrides=shlex.join(words),
            gpus=self.gpus,
        )

    def complete(self) -> bool:
        """Return True once this process has written the table."""
        return self._done

    def run(self) -> Any:
        """Train every configuration once, evaluate every row, write the table."""
        rows = self.rows()
        names = sorted({name for row in rows.values() for name in row["configs"]})
        yield [self.training(name, seed) for seed in range(self.seeds) for name in names]
        table = []
        for name, row in rows.items():
            found = [self._evaluate(name, row["configs"], seed) for seed in range(self.seeds)]
            table.append(_summarise(name, row, found))
        out = Path(self.out)
        document = {
            "benchmark": self.benchmark,
            "split": self.split,
            "overrides": self.overrides,
            "model_overrides": dict(self.model_overrides),
            "seeds": self.seeds,
            "rows": table,
        }
        (out / "compare.json").write_text(json.dumps(document, indent=1) + "\n")
        (out / "compare.md").write_text(as_markdown(document))
        sys.stdout.write(f"{as_markdown(document)}\ntable: {out / 'compare.md'}\n")
        self._done = True

    def _evaluate(self, name: str, configs: list[str], seed: int) -> dict[str, Any]:
        """Return the last row of an evaluation: the run itself, or the ensemble of several."""
        runs = [self.training(config, seed).folder for config in configs]
        result = Path(self.out) / "results" / f"{name}-seed{seed}.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "models.evaluate", *map(str, runs), "--store", self.store]
        command += ["--split", self.split, "--json", str(result)]
        run_in_group([*command, *(["--fold5"] if self.fold5 else [])])
        document = json.loads(result.read_text())
        return {**document["rows"][-1], "chance": document["chance"]["rsum"]}


def _summarise(name: str, row: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds beside the published numbers."""
    metrics = {
        key: statistics.fmean(one["metrics"][key] for one in found) for key in (*RECALLS, "rsum")
    }
    published = dict(zip(RECALLS, row["recalls"], strict=False))
    rsum = round(sum(row["recalls"]), 1) if row["recalls"] else None
    spread = [one["metrics"]["rsum"] for one in found]
    return {
        "name": name,
        "configs": row["configs"],
        "source": row["source"],
        "metrics": metrics,
        "rsum_seeds": spread,
        "rsum_interval": found[0]["intervals"].get("rsum"),
        "published": {**published, "rsum": rsum},
        "difference": None if rsum is None else metrics["rsum"] - rsum,
        "chance": found[0]["chance"],
    }


def as_markdown(document: dict[str, Any]) -> str:
    """Return the comparison as a Markdown table, best rSum first."""
    head = (
        "| row | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rSum | 95 % | paper's rSum | diff |"
    )
    lines = [head, "|---|" + "---:|" * 10]
    for row in sorted(document["rows"], key=lambda one: -one["metrics"]["rsum"]):
        cells = [f"{row['metrics'][key]:.1f}" for key in (*RECALLS, "rsum")]
        low_high = row["rsum_interval"]
        interval = f"{low_high[0]:.1f}-{low_high[1]:.1f}" if low_high else ""
        if len(row["rsum_seeds"]) > 1:
            interval = f"{min(row['rsum_seeds']):.1f}-{max(row['rsum_seeds']):.1f} (seeds)"
        published = row["published"]["rsum"]
        theirs = f"{published:.1f} ({row['source']})" if published else "-"
        difference = f"{row['difference']:+.1f}" if published else "-"
        lines.append(
            f"| {row['name']} | {' | '.join(cells)} | {interval} | {theirs} | {difference} |"
        )
    chance = document["rows"][0]["chance"]
    lines.append("")
    lines.append(
        f"Split {document['split']}, {document['seeds']} seed(s), chance rSum {chance:.1f}"
        + (f", overrides: {document['overrides']}" if document["overrides"] else "")
    )
    return "\n".join(lines) + "\n"
