"""Compare evaluated runs in pairs: ``python -m models.compare A.npz B.npz [B2.npz,...]``.

The files are those of ``python -m models.evaluate ... --ranks A.npz``. Nothing is scored again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from features.commands import Program, print_json
from features.errors import UsageError
from models.evaluation import paired_bootstraps, print_differences, read_ranks, write_json

__all__ = ["app", "compare"]

app = Program("python -m models.compare")


@app.command("compare")
def compare(
    rows: Annotated[
        list[str],
        typer.Argument(
            metavar="RANKS",
            help="Files of models.evaluate --ranks. Files joined by commas, such as those of "
            "several seeds, are one row: their mean.",
        ),
    ],
    json: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write the differences, print nothing; - prints them."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(metavar="N", min=1, help="Samples of images.")] = 1000,
) -> None:
    """Print by how much the recalls of every two rows differ, with paired intervals and p."""
    if len(rows) < 2:
        raise UsageError("a comparison needs at least two files of models.evaluate --ranks.")
    found = [[read_ranks(Path(part)) for part in row.split(",")] for row in rows]
    owner = found[0][0][1]
    for name, seeds in zip(rows, found, strict=True):
        if not all(np.array_equal(owner, one) for _, one in seeds):
            raise UsageError(f"{name} and {rows[0]} are of different captions or another split.")
    recalls = [[recall for recall, _ in seeds] for seeds in found]
    differences = paired_bootstraps(recalls, owner, bootstrap)
    if json is None:
        print_differences({(rows[i], rows[j]): one for (i, j), one in differences.items()})
        return  # there is no store to name a next command for
    pairs = [
        {
            "rows": [i, j],
            "metrics": {name: dataclasses.asdict(one) for name, one in metrics.items()},
        }
        for (i, j), metrics in differences.items()
    ]
    document = {"files": rows, "samples": bootstrap, "differences": pairs}
    if str(json) == "-":
        print_json(document)
    else:
        write_json(json, document)


if __name__ == "__main__":
    app.run()
