"""Evaluate runs: ``python -m models.evaluate RUN [RUN ...] --store STORE --split test``.

Several runs make an ensemble: the mean of their score matrices. Under ``torchrun`` every rank
scores some of the images; the first one computes and writes the results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import typer

from features.commands import Program
from features.errors import UsageError
from features.store import open_store
from models.evaluation import (
    Setting,
    chance,
    describe,
    document,
    evaluate_positives,
    evaluate_scores,
    file_stem,
    paired_bootstrap,
    print_differences,
    print_positives,
    print_table,
    read_positives,
    write_json,
    write_positives,
    write_queries,
    write_ranks,
)
from models.training import check_split, load_run, store_keys

__all__ = ["app", "evaluate", "load_run"]

app = Program("python -m models.evaluate", plugins=True)


@app.command("evaluate")
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    store: Annotated[str, typer.Option(metavar="STORE", help="Store folder or manifest.")],
    split: Annotated[str, typer.Option(help="A split, or a part of one: val[-200:].")] = "test",
    fold5: Annotated[bool, typer.Option("--fold5", help="Mean of five folds (COCO 1K).")] = False,
    rerank: Annotated[bool, typer.Option("--rerank", help="Also with RACG's re-ranking.")] = False,
    rerank_top: Annotated[
        int, typer.Option("--rerank-top", metavar="K", min=1, help="Captions to re-rank.")
    ] = 15,
    positives: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Also with several right answers per query: DIR/eccv, DIR/cxc or a table of "
            "pairs (docs/models/evaluation.md). Repeatable.",
        ),
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="Compare the first run with each other one.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write all results as JSON.")
    ] = None,
    ranks: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write the ranks of the last row for models.compare."),
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Accept a store with other data.")
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(metavar="N", min=0, help="Samples for intervals; 0: no intervals.")
    ] = 1000,
    precision: Annotated[
        Literal["float32", "tf32", "bf16"],
        typer.Option(help="Of codes and scores; lower ones change scores (docs/scaling.md)."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Print the recalls of trained runs, and of their ensemble if there are several.

    Each run folder gets results-SPLIT.json and queries-SPLIT.parquet, and with --positives
    queries-SPLIT-NAME.parquet.
    """
    if paired and len(runs) < 2:
        raise UsageError("--paired compares the first run with others. Name at least two runs.")
    # load torch, which --help does not need
    from models.compute import join_world, memory_errors, pick_device
    from models.evaluation import score_split

    opened = open_store(store)
    check_split(opened, split)
    right = [read_positives(path, opened, split) for path in positives or ()]
    owner = opened.caption_image_rows(split)
    matrices: list[npt.NDArray[np.float32]] = []
    about_runs: list[dict[str, Any]] = []
    with join_world(device) as world:
        chosen = pick_device(device, world)
        with memory_errors(chosen, "Use a device with more memory, or --device cpu."):
            for folder in runs:
                run = load_run(folder, opened, device=chosen, allow_mismatch=allow_mismatch)
                how: dict[str, Any] = {"device": chosen, "precision": precision}
                sims = score_split(run.model, opened, split, run.codebook, world, **how)
                if sims is not None:
                    matrices.append(sims.numpy())
                    about_runs.append({"folder": str(folder), **run.metadata})
            if not world.first:
                return
            names = [str(folder) for folder in runs]
            if len(runs) > 1:
                matrices.append(np.mean(matrices, axis=0))
                names.append(f"ensemble of {len(runs)}")
            rows = [
                evaluate_scores(
                    sims,
                    owner,
                    name,
                    folds=fold5,
                    reranked=again,
                    top=rerank_top,
                    samples=bootstrap,
                )
                for sims, name in zip(matrices, names, strict=True)
                for again in ((False, True) if rerank else (False,))
            ]
            for at, matrix in enumerate(matrices):  # beside the row without re-ranking
                found = {
                    one.name: evaluate_positives(matrix, owner, one, samples=bootstrap)
                    for one in right
                }
                rows[at * (1 + rerank)].positives.update(found)
            differences = {
                (names[0], names[at]): paired_bootstrap(
                    rows[0].recall, rows[at * (1 + rerank)].recall, owner, bootstrap or 1000
                )
                for at in range(1, len(runs) if paired else 1)
            }
            images = len(matrices[0])
            by_chance = chance(owner, images, 5 if fold5 else 1)
            keys = store_keys(opened)
            setting = Setting(
                split,
                images,
                len(owner),
                fold5,
                precision,
                rerank_top if rerank else 0,
                keys,
                by_chance,
            )
            if json is not None:
                write_json(json, document(setting, about_runs, rows, differences))
            if ranks is not None:
                write_ranks(ranks, rows[-1].recall, owner)
            stem = file_stem(split) + ("-fold5" if fold5 else "")
            each = 1 + rerank  # rows per run
            for at, (folder, about) in enumerate(zip(runs, about_runs, strict=True)):
                own = rows[at * each : (at + 1) * each]
                write_json(folder / f"results-{stem}.json", document(setting, [about], own))
                write_queries(
                    folder / f"queries-{stem}.parquet", opened, split, matrices[at], own[0]
                )
                for name, numbers in own[0].positives.items():
                    file = folder / f"queries-{file_stem(split)}-{name}.parquet"
                    write_positives(file, opened, split, numbers)
            print_table(rows, setting)
            if right:
                print_positives(rows)
                sys.stdout.write("".join(f"{describe(one)}\n" for one in right))
            if differences:
                print_differences(differences)


if __name__ == "__main__":
    app.run()
