"""How evaluations are kept and shown: JSON, a Parquet row per query, a table for people."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import MissingDependency, TrainingError
from features.format.files import partial_path
from models.evaluation.metrics import Recall

if TYPE_CHECKING:
    from features.store import Store

__all__ = ["Evaluation", "document", "file_stem", "print_table", "write_json", "write_queries"]

TOP = 10


def file_stem(split: str) -> str:
    """Return a split's part of a file name; the two parts of one split differ.

    >>> file_stem("val[:30]"), file_stem("val[30:]")
    ('val_-to-30', 'val_30-to-')
    """
    return re.sub(r"[^\w-]+", "_", split.replace(":", "-to-")).strip("_")


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one row of the table.

    Attributes:
        name: what was evaluated: a run folder, or ``ensemble``, with ``+ re-ranking``.
        recall: its numbers.   intervals: bootstrap intervals by name, when asked for.
    """

    name: str
    recall: Recall
    intervals: dict[str, tuple[float, float]]


def document(
    about: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], rows: Sequence[Evaluation]
) -> dict[str, Any]:
    """Return everything about an evaluation as JSON values.

    Args:
        about: split, sizes, store keys, chance.
        runs: what each run keeps about itself: folder, configuration, store keys, step.
        rows: become ``name``, ``metrics`` (name -> number), ``intervals`` (name -> [low, high]).
    """
    return {
        **about,
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
    """Write a JSON file that is whole or not there. Raises: TrainingError."""
    with _whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file gets its own when it is whole, and else goes away."""
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}). Free some space or check the "
            "folder, then run again; the weights are as they were."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_queries(
    path: Path, store: Store, split: str, sims: npt.NDArray[Any], row: Evaluation
) -> None:
    """Write one row per query: who asked, the rank of the best right answer, the first answers.

    Columns: ``direction`` (i2t | t2i), ``query`` (image or caption id), ``rank`` (from 1),
    ``answers`` (the ten best ids), ``scores`` (theirs). With folds the ranks are the folds'.

    Raises: MissingDependency: pyarrow is not installed. TrainingError: not written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency.of(
            "pyarrow", "writing per-query results", "pip install pyarrow"
        ) from error
    image_ids, caption_ids = _ids(store, split)
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
    with _whole(path) as partial:
        pq.write_table(table, partial)


def _ids(store: Store, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the image and caption ids of a split in row order, object arrays of str."""
    images = store.column("image_id")[store.image_rows(split)]
    captions = store.column("caption_id")[store.caption_rows(split)]
    return images, captions


def _best(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the columns of the ``TOP`` best scores per row, best first, ties by column."""
    top = min(TOP, scores.shape[1])
    some = np.sort(np.argpartition(-scores, top - 1, axis=1)[:, :top], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def print_table(
    rows: Sequence[Evaluation],
    by_chance: Mapping[str, float],
    split: str,
    n_images: int,
    n_captions: int,
    folds: bool,
) -> None:
    """Print the recalls side by side, intervals under them, chance in the last row."""
    from rich.console import Console
    from rich.table import Table

    folded = ", mean of five folds" if folds else ""
    table = Table(title=f"{split}: {n_images:,} images, {n_captions:,} captions{folded}")
    table.add_column("run", overflow="fold")
    heads = [f"{way} R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    for head in (*heads, "i2t medr", "t2i medr", "rsum", "mR"):
        table.add_column(head, justify="right")
    names = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
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
    table.add_row("chance", *(f"{by_chance[n]:.1f}" if n in by_chance else "" for n in names))
    console = Console()
    # a pipe has no width of its own: never cut numbers there
    Console(width=None if console.is_terminal else 160).print(table)
