"""Evaluate runs: ``python -m models.evaluate RUN [RUN ...] --store STORE --split test``.

``--negatives`` compares true captions with false ones and ``--judgements`` compares scores with
human ratings, both instead of recall.

Several runs make an ensemble: the mean of their score matrices. Under ``torchrun`` every rank
scores some of the images; the first one computes and writes the results.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import typer

from features.commands import Column, Program, next_steps, print_json
from features.commands import print_table as print_rows
from features.drawing import Thumbnails
from features.errors import UsageError
from features.store import Store, open_store
from models.evaluation import (
    Negatives,
    Setting,
    accuracies,
    chance,
    compare_with_negatives,
    describe,
    document,
    evaluate_positives,
    evaluate_scores,
    file_stem,
    image_rows,
    kendall,
    paired_bootstrap,
    parse_texts,
    print_accuracies,
    print_agreement,
    print_differences,
    print_positives,
    print_table,
    read_judgements,
    read_positives,
    score_pairs,
    stored_profile,
    write_json,
    write_positives,
    write_queries,
    write_ranks,
)
from models.reporting import failures, write_sheet
from models.training import Run, check_split, libraries, load_run, store_keys

if TYPE_CHECKING:
    import torch

__all__ = ["app", "evaluate", "load_run"]

WORST = 24  # failures on a page

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
        Path | None, typer.Option(metavar="OUT", help="Write all results as JSON; - prints them.")
    ] = None,
    worst: Annotated[
        int,
        typer.Option("--failures", metavar="N", min=0, help="Print the N worst captions of runs."),
    ] = 0,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page of the failures.")
    ] = None,
    images_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos, for --html.")
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
    negatives: Annotated[
        str, typer.Option(metavar="STORE", help="False captions of the split, instead of recall.")
    ] = "",
    judgements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Human ratings, instead of recall.")
    ] = None,
    parser: Annotated[str, typer.Option(help="Of the captions in --judgements.")] = "spacy",
) -> None:
    """Print the recalls of trained runs, and of their ensemble if there are several.

    Each run folder gets results-SPLIT.json and queries-SPLIT.parquet, and with --positives
    queries-SPLIT-NAME.parquet. --negatives and --judgements answer another question and write
    evaluation-*.json.
    """
    if paired and len(runs) < 2:
        raise UsageError("--paired compares the first run with others. Name at least two runs.")
    # load torch, which --help does not need
    from models.compute import device_name, join_world, memory_errors, pick_device
    from models.evaluation import score_split

    opened = open_store(store)
    if negatives or judgements:
        if negatives and judgements:
            raise UsageError("pass --negatives or --judgements, one at a time.")
        recall_only = {
            "--fold5": fold5,
            "--rerank": rerank,
            "--positives": positives,
            "--paired": paired,
            "--precision": precision != "float32",
            "--failures": worst,
            "--html": page,
        }
        if given := [name for name, value in recall_only.items() if value]:
            raise UsageError(
                f"{', '.join(given)}: for recall, which --negatives and --judgements replace. "
                "Leave it out, or run them one after the other."
            )
        sources = f"negatives {negatives}" if negatives else f"judgements {judgements}"
        how_many: dict[str, Any] = {"samples": bootstrap, "out": json}
        with join_world(device) as world:
            if world.size > 1:
                raise UsageError(f"--{sources} runs in one process. Start it without torchrun.")
            chosen = pick_device(device, world)
            with memory_errors(chosen, "Use a device with more memory, or --device cpu."):
                trained = [
                    load_run(folder, opened, device=chosen, allow_mismatch=allow_mismatch)
                    for folder in runs
                ]
                if judgements:
                    rate(trained, opened, judgements, parser, device=chosen, **how_many)
                else:
                    tell_apart(trained, opened, negatives, split, device=chosen, **how_many)
        return
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
                split=split,
                images=images,
                captions=len(owner),
                fold5=fold5,
                precision=precision,
                rerank_top=rerank_top if rerank else 0,
                store=keys,
                chance=by_chance,
                libraries=libraries(),
                device=device_name(chosen),
            )
            if json is not None:
                _write_or_print(json, document(setting, about_runs, rows, differences))
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
            tables = [folder / f"queries-{stem}.parquet" for folder in runs]
            if page is not None:
                _failure_page(page, opened, split, runs, tables, worst or WORST, images_dir)
            if str(json) == "-":
                return
            print_table(rows, setting)
            if right:
                print_positives(rows)
                sys.stdout.write("".join(f"{describe(one)}\n" for one in right))
            if differences:
                print_differences(differences)
            for folder, table in zip(runs, tables, strict=True) if worst else ():
                _print_failures(opened, folder, table, worst)
            if page is not None:
                sys.stdout.write(f"failures: {page}\n")
            _suggest(runs, store, opened, split)


def _write_or_print(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document to a file, or print it for ``-``."""
    if str(path) == "-":
        print_json(content)
    else:
        write_json(path, content)


def _print_failures(store: Store, folder: Path, table: Path, count: int) -> None:
    """Print the captions whose image has the worst ranks, one per image."""
    columns = [
        *(Column("rank", right=True), Column("image", cut="start")),
        *(Column("first result", cut="start", rank=1), Column("caption", cut="end")),
    ]
    rows = [
        (
            f"{query['runs'][0]['rank']:,}",
            query["truth"]["id"],
            query["runs"][0]["answers"][0]["id"],
            query["text"],
        )
        for query in failures(store, table, Thumbnails(None), count)
    ]
    print_rows(columns, rows, f"{folder}: captions whose image is found last")


def _failure_page(
    page: Path,
    store: Store,
    split: str,
    runs: Sequence[Path],
    tables: Sequence[Path],
    count: int,
    images_dir: Path | None,
) -> None:
    """Write a page of the worst captions of each run, with their first results."""
    thumbnails = Thumbnails(images_dir)
    sections = [
        {"title": str(folder), "queries": failures(store, table, thumbnails, count)}
        for folder, table in zip(runs, tables, strict=True)
    ]
    lead = (
        f"Captions of {split!r} whose image is found last, one per image, with their first "
        "results. A green frame marks the right image."
    )
    write_sheet(page, "Failures", lead, sections)


def _suggest(runs: Sequence[Path], given: str, store: Store, split: str) -> None:
    """Write what to run next with evaluated runs."""
    text = str(store.column("caption")[store.caption_rows(split)[0]])
    failed = ["evaluate", *runs, "--store", given, "--split", split, "--html", "failures.html"]
    where = ["--split", split] if "[" not in split else []
    next_steps(
        ["report", given, *runs, *where], ["search", given, runs[0], text, "--split", split], failed
    )


def tell_apart(
    runs: Sequence[Run],
    store: Store,
    negatives: str,
    split: str,
    *,
    device: torch.device,
    samples: int,
    out: Path | None,
) -> None:
    """Print how often each run scores a caption higher than its negative, by kind.

    Each run folder gets evaluation-negatives-SPLIT.json.
    """
    check_split(store, split)
    false = Negatives(negatives, store)
    found = [
        compare_with_negatives(run.model, store, split, false, run.codebook, device=device)
        for run in runs
    ]
    rows = found[0][0]
    results = [
        {"name": name, "kinds": [vars(one) for one in accuracies(false, rows, margin, samples)]}
        for name, margin in _with_ensemble(runs, [margins for _, margins in found])
    ]
    about = {"split": split, "negatives": false.identity, "store": store_keys(store)}
    _write(runs, f"evaluation-negatives-{file_stem(split)}.json", about, results, out)
    if str(out) != "-":
        print_accuracies(results, split)


def rate(
    runs: Sequence[Run],
    store: Store,
    file: Path,
    parser: str,
    *,
    device: torch.device,
    samples: int,
    out: Path | None,
) -> None:
    """Print the agreement of each run's scores with human ratings.

    Each run folder gets evaluation-judgements-FILE.json.
    """
    profile = stored_profile(store)
    results: list[dict[str, Any]] = []
    for judged in read_judgements(file):
        images = image_rows(judged.pairs, store, file)
        texts = list(dict.fromkeys(pair.caption for pair in judged.pairs))
        place = {text: at for at, text in enumerate(texts)}
        which = np.array([place[pair.caption] for pair in judged.pairs])
        graphs = parse_texts(texts, parser=parser, profile=profile)
        scores = [
            score_pairs(run.model, store, run.codebook, images, graphs, which, device=device)
            for run in runs
        ]
        times = [len(pair.ratings) for pair in judged.pairs]
        ratings = [value for pair in judged.pairs for value in pair.ratings]
        owners = np.repeat(images, times)
        for name, values in _with_ensemble(runs, scores):
            agreement = kendall(np.repeat(values, times), ratings, owners, samples=samples)
            numbers = {"pairs": len(judged.pairs), "left_out": judged.left_out, **vars(agreement)}
            results.append({"name": name, "set": judged.name, **numbers})
    about = {"judgements": str(file), "store": store_keys(store)}
    _write(runs, f"evaluation-judgements-{file_stem(file.stem)}.json", about, results, out)
    if str(out) != "-":
        print_agreement(results, file.name)


def _with_ensemble(
    runs: Sequence[Run], scores: Sequence[npt.NDArray[np.float32]]
) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Return the name and scores of each run, and of their mean if there are several."""
    named = [(str(run.folder), values) for run, values in zip(runs, scores, strict=True)]
    if len(runs) > 1:
        named.append((f"ensemble of {len(runs)}", np.mean(scores, axis=0)))
    return named


def _write(
    runs: Sequence[Run],
    name: str,
    about: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    out: Path | None,
) -> None:
    """Write all results as JSON, and those of each run into its folder."""
    if out is not None:
        _write_or_print(out, {**about, "rows": list(results)})
    for run in runs:
        own = [row for row in results if row["name"] == str(run.folder)]
        write_json(run.folder / name, {**about, "rows": own})


if __name__ == "__main__":
    app.run()
