"""What the report shows of runs: results, curves and tables of queries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from features.errors import InputError, MismatchError, MissingInput
from models.evaluation import file_stem
from models.reporting.charts import curves
from models.training import RunFolder, read_metrics

Line = list[tuple[float, float]]
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")


def read_run(folder: Path, split: str, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the name, training log and results of a run, and the path of its table of queries.

    Args:
        folder: the run folder.   split: of the results.
        keys: ``store_keys`` of the store in the report.

    Raises:
        MissingInput: no such folder.
        InputError: the results file cannot be read.
        MismatchError: the results are of another store.
    """
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such run folder. Train first, or check the path.")
    results: dict[str, Any] = {}
    path = folder / f"results-{file_stem(split)}.json"
    if path.is_file():
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            rows = [[row["name"], *(row["metrics"][name] for name in RECALLS)]
                    for row in results["rows"]]  # fmt: skip
            _ = [results["images"], results["captions"], *(results["chance"][r] for r in RECALLS)]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a results file of models.evaluate. Run it again."
            ) from error
        results = results if rows else {}
        of, here = results.get("store") or {}, keys or {}
        if any(of[name] != here[name] for name in of.keys() & here.keys() - {"store"}):
            raise MismatchError(f"{path}: results of another store. Run models.evaluate again.")
    about = results["runs"][0] if results.get("runs") else {}
    model = about.get("config", {}).get("model", {}).get("name", "") or _model_of(folder)
    name = folder.name
    if model and folder.name.lower() == model:
        name = model.upper()
    elif model and model not in folder.name.lower():
        name = f"{model.upper()} \N{MIDDLE DOT} {folder.name}"
    log = RunFolder(folder).metrics
    logged = read_metrics(log) if log.is_file() else []
    # A model that is not trained has one evaluation at step 0, and no curves.
    learns = [row.get("kind") for row in logged] != ["val"]
    queries = folder / f"queries-{file_stem(split)}.parquet"
    return {
        "name": name,
        "folder": str(folder),
        "steps": about.get("step"),
        "results": results,
        "model": model or folder.name,
        "lines": _lines(logged) if learns else {},
        "learns": learns,
        "queries": queries if queries.is_file() else None,
    }


def _model_of(folder: Path) -> str:
    """Return the model of a run that has no results, "" if its configuration cannot be read."""
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return str(content["model"]["name"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""


def _lines(rows: Sequence[Mapping[str, str]]) -> dict[str, Line]:
    """Return the training loss and the numbers on the validation split, each as (step, value)."""

    def line(kind: str, column: str) -> Line:
        found = []
        for row in rows:
            if row.get("kind") == kind and row.get(column) and row.get("step"):
                try:
                    found.append((float(row["step"]), float(row[column])))
                except ValueError:
                    continue  # an incomplete last line, while the run is writing it
        return found

    found = {"loss": _thin(line("train", "loss")), "rsum": line("val", "rsum")}
    for level in (1, 5, 10):
        ways = (line("val", f"i2t_r{level}"), line("val", f"t2i_r{level}"))
        found[f"r{level}"] = [(s, (a + b) / 2) for (s, a), (_, b) in zip(*ways, strict=False)]
    return found


def training_charts(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw the loss and the validation of several runs over each other, as SVG.

    Args:
        runs: as ``read_run`` returns them.
    """

    def of(key: str) -> dict[str, Line]:
        return {run["name"]: run["lines"][key] for run in runs if run["lines"].get(key)}

    losses = [value for line in of("loss").values() for _, value in line]
    steep = bool(losses) and max(losses) > 30 * max(min(losses), 1e-9)
    span = 0.2 * max(map(abs, losses), default=0.0)
    if len(runs) == 1:
        lines = runs[0]["lines"]
        recalls = {f"R@{k}": lines.get(f"r{k}", []) for k in (10, 5, 1)}
        recalls = {name: line for name, line in recalls.items() if line}
        charts = [curves(recalls, "Recall on validation, mean of both directions", "%", 10)]
    else:
        charts = [
            curves(of("rsum"), "rSum on validation", span=20)
            or curves(of("r1"), "R@1 on validation, mean of both directions", "%", span=5)
        ]
    charts.append(curves(of("loss"), "Training loss", log=steep, span=span))
    return [chart for chart in charts if chart]


def _thin(line: Line, points: int = 240) -> Line:
    """Average neighbouring points of a long line."""
    if len(line) <= points:
        return line
    parts = np.array_split(np.array(line), points)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]
