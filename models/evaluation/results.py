"""Results of an evaluation: JSON, a Parquet table of all queries, and a printed table."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import MissingDependency
from features.format import replacing
from models.evaluation.measure import Evaluation

if TYPE_CHECKING:
    from features.store import Store

TOP = 10


@dataclass(frozen=True)
class Setting:
    """What was evaluated, and how.

    Attributes:
        split: name of the split.   images, captions: how many it has.
        fold5: mean of five folds.   precision: of the scores.
        store: keys of the store, see ``store_keys``.   chance: recalls of a random order.
    """

    split: str
    images: int
    captions: int
    fold5: bool
    precision: str
    store: dict[str, str]
    chance: dict[str, float]


def file_stem(split: str) -> str:
    """Return a split as part of a file name; different parts of a split get different names.

    >>> file_stem("val[:30]"), file_stem("val[30:]")
    ('val_-to-30', 'val_30-to-')
    """
    return re.sub(r"[^\w-]+", "_", split.replace(":", "-to-")).strip("_")


def document(
    setting: Setting, runs: Sequence[Mapping[str, Any]], rows: Sequence[Evaluation]
) -> dict[str, Any]:
    """Return an evaluation as JSON values.

    Args:
        setting: becomes the first keys.   runs: folder and metadata of each run.
        rows: become ``name``, ``metrics`` (name -> number), ``intervals`` (name -> [low, high]).
    """
    return {
        **dataclasses.asdict(setting),
        "runs": [dict(run) for run in runs],
        "rows": [
            {
                "name": row.name,
                "metrics": dict(row.recall),
                "intervals": {name: list(ends) for name, ends in row.intervals.items()},
            }
            for row in rows
        ],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file. Raises: WriteError."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_queries(
    path: Path, store: Store, split: str, sims: npt.NDArray[Any], row: Evaluation
) -> None:
    """Write a row for each query: its id, the rank of its best right answer, its first answers.

    Columns: ``direction`` (i2t or t2i), ``query`` (image or caption id), ``rank`` (from 1),
    ``answers`` (the ten best ids), ``scores`` (of the answers). With folds, ranks are within the
    fold.

    Raises: MissingDependency: pyarrow is not installed. WriteError: the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency.of(
            "pyarrow", "writing per-query results", "pip install pyarrow"
        ) from error
    image_ids = store.column("image_id")[store.image_rows(split)]
    caption_ids = store.column("caption_id")[store.caption_rows(split)]
    asking = row.recall.i2t_images
    i2t, t2i = _best(sims[asking]), _best(np.ascontiguousarray(sims.T))
    table = pa.table(
        {
            "direction": ["i2t"] * len(asking) + ["t2i"] * len(caption_ids),
            "query": [*image_ids[asking], *caption_ids],
            "rank": np.concatenate([row.recall.i2t_ranks, row.recall.t2i_ranks]) + 1,
            "answers": [*caption_ids[i2t].tolist(), *image_ids[t2i].tolist()],
            "scores": [
                *np.take_along_axis(sims[asking], i2t, 1).tolist(),
                *np.take_along_axis(sims.T, t2i, 1).tolist(),
            ],
        }
    )
    with replacing(path) as partial:
        pq.write_table(table, partial)


def _best(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the columns of the ``TOP`` best scores per row, best first, ties by column."""
    top = min(TOP, scores.shape[1])
    some = np.sort(np.argpartition(-scores, top - 1, axis=1)[:, :top], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def print_table(rows: Sequence[Evaluation], setting: Setting) -> None:
    """Print the recalls of all rows, with their intervals below, and chance in the last row."""
    from rich.console import Console  # takes 50 ms to load
    from rich.table import Table

    folds = ", mean of five folds" if setting.fold5 else ""
    counts = f"{setting.images:,} images, {setting.captions:,} captions"
    table = Table(title=f"{setting.split}: {counts}{folds}")
    table.add_column("run", overflow="fold")
    names = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    heads = [name.replace("_r", " R@") for name in names]
    for head in (*heads, "i2t medr", "t2i medr", "rsum", "mR"):
        table.add_column(head, justify="right")
    names += ["i2t_medr", "t2i_medr", "rsum", "mr"]
    for row in rows:
        cells = []
        for name in names:
            cell = f"{row.recall[name]:.1f}"
            if name in row.intervals:
                low, high = row.intervals[name]
                cell += f"\n{low:.1f}-{high:.1f}"
            cells.append(cell)
        table.add_row(row.name, *cells)
    by_chance = setting.chance
    table.add_row("chance", *(f"{by_chance[n]:.1f}" if n in by_chance else "" for n in names))
    # A pipe has no width; numbers must not be cut there.
    Console(width=None if Console().is_terminal else 160).print(table)


def print_accuracies(rows: Sequence[Mapping[str, Any]], split: str) -> None:
    """Print the accuracy of each run by kind of negative, with intervals below."""
    kinds = rows[0]["kinds"]
    heads = [f"{kind['kind']} ({kind['count']:,})" for kind in kinds]
    cells = [
        (str(row["name"]), *(_cell(k["value"], (k["low"], k["high"])) for k in row["kinds"]))
        for row in rows
    ]
    chance_row = ("chance", *("50.0" for _ in kinds))
    _print(f"{split}: a caption scores higher than its negative, %", heads, [*cells, chance_row])


def print_agreement(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Print Kendall's tau of each run and set of ratings x 100, with intervals below."""
    heads = ("set", "pairs", "left out", "ratings", "images", "tau-b", "tau-c")
    cells = []
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("pairs", "left_out", "ratings", "images")]
        taus = []
        for name in ("tau_b", "tau_c"):
            ends = row[f"{name}_interval"]
            taus.append(_cell(100 * row[name], ends and (100 * ends[0], 100 * ends[1])))
        cells.append((str(row["name"]), str(row["set"]), *counts, *taus))
    _print(f"{file}: agreement with ratings, x 100", heads, cells)


def _cell(value: float, ends: tuple[float, float] | None) -> str:
    known = ends is not None and ends[0] < ends[1]
    return f"{value:.1f}" + (f"\n{ends[0]:.1f}-{ends[1]:.1f}" if known and ends else "")


def _print(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # takes 50 ms to load
    from rich.table import Table

    table = Table(title=title)
    table.add_column("run", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)
