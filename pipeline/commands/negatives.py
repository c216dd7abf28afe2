"""The command ``negatives``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from features.commands import Program, Progress, next_steps, print_json
from features.store import open_store

app = Program("python -m pipeline")


@app.command("negatives")
def negatives(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store with parsed captions.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the store to write.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND...",
            help="Some of swap, attribute-swap, noun, attribute, number, predicate [all].",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice among several changes.")] = 0,
    parser: Annotated[str, typer.Option(help="Parser of the negatives.")] = "spacy",
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Write false captions for the images of a store.

    Each caption is changed by its parse: subject and object or attributes exchanged, a noun, an
    attribute, a number or a predicate replaced. The result is a store of captions of the same
    images, for data.negatives in training and models.evaluate --negatives.
    """
    from pipeline.negatives import KINDS, write_negatives  # loads the parser rules

    total = len(open_store(store))
    with Progress("negatives", "images", total) as progress:
        report = write_negatives(
            store, out, parser=parser, seed=seed, kinds=kinds or KINDS, progress=progress.advance
        )
    if as_json:
        counts = {kind: count for kind, count in report.kinds.items() if count}
        about = {"manifest": str(report.manifest), "captions": report.captions}
        print_json({**about, "covered": report.covered, "kinds": counts})
        return
    typer.echo(report.manifest)
    typer.echo(
        f"{sum(report.kinds.values()):,} negatives of {report.covered:,} of "
        f"{report.captions:,} captions"
    )
    for kind in KINDS:
        if report.kinds[kind]:
            typer.echo(f"  {kind:14} {report.kinds[kind]:>9,}")
    next_steps(["show", out])
