"""Results of an evaluation: JSON, a Parquet table of all queries, and a printed table."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.commands import Cell, Column
from features.commands import print_table as print_rows
from features.errors import InputError, MissingDependency
from features.format import replacing
from features.npz_files import open_npz
from models.configuration import Strict
from models.evaluation.measure import Evaluation
from models.evaluation.metrics import METRICS, Difference, Recall
from models.evaluation.positives import PARTS, Found, rows_of

if TYPE_CHECKING:
    from features.store import Store

TOP = 10
_RANKS = ("i2t_ranks", "t2i_ranks", "i2t_images", "caption_to_image")
Differences = Mapping[tuple[str, str], Mapping[str, Difference]]


class Protocol(Strict):
    """How numbers were made; those of other protocols cannot be compared.

    Attributes:
        split: name of the split.   images, captions: how many it has.
        fold5: mean of five folds.   precision: of the scores.
        rerank_top: captions per image that were re-ranked; 0 without re-ranking.
    """

    split: str
    images: int
    captions: int
    fold5: bool
    precision: str
    rerank_top: int


class Setting(Protocol):
    """What was evaluated, and how.

    Attributes:
        store: keys of the store, see ``store_keys``.   chance: recalls of a random order.
        libraries: versions of the packages that computed the numbers.   device: where.
    """

    store: dict[str, str]
    chance: dict[str, float]
    libraries: dict[str, str]
    device: str


def file_stem(split: str) -> str:
    """Return a split as part of a file name; different parts of a split get different names.

    >>> file_stem("val[:30]"), file_stem("val[30:]")
    ('val_-to-30', 'val_30-to-')
    """
    return re.sub(r"[^\w-]+", "_", split.replace(":", "-to-")).strip("_")


def document(
    setting: Setting,
    runs: Sequence[Mapping[str, Any]],
    rows: Sequence[Evaluation],
    differences: Differences | None = None,
) -> dict[str, Any]:
    """Return an evaluation as JSON values.

    Args:
        setting: becomes the first keys.   runs: folder and metadata of each run.
        rows: become ``name``, ``metrics`` (name -> number), ``intervals`` (name -> [low, high])
            and ``positives`` (set -> metrics and intervals).
        differences: become ``differences``: both names, and metric -> value, low, high, p.
    """
    return {
        **setting.model_dump(),
        "runs": [dict(run) for run in runs],
        "rows": [
            {
                "name": row.name,
                "metrics": dict(row.recall),
                "intervals": {name: list(ends) for name, ends in row.intervals.items()},
                "positives": {
                    name: {
                        "metrics": found.values,
                        "intervals": {key: list(ends) for key, ends in found.intervals.items()},
                    }
                    for name, found in row.positives.items()
                },
            }
            for row in rows
        ],
        "differences": [
            {
                "runs": list(names),
                "metrics": {name: dataclasses.asdict(one) for name, one in found.items()},
            }
            for names, found in (differences or {}).items()
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
    image_ids = store.column("image_id")[store.image_rows(split)]
    caption_ids = store.column("caption_id")[store.caption_rows(split)]
    asking = row.recall.i2t_images
    i2t, t2i = _best(sims[asking]), _best(np.ascontiguousarray(sims.T))
    _write_table(
        path,
        {
            "direction": ["i2t"] * len(asking) + ["t2i"] * len(caption_ids),
            "query": [*image_ids[asking], *caption_ids],
            "rank": np.concatenate([row.recall.i2t_ranks, row.recall.t2i_ranks]) + 1,
            "answers": [*caption_ids[i2t].tolist(), *image_ids[t2i].tolist()],
            "scores": [
                *np.take_along_axis(sims[asking], i2t, 1).tolist(),
                *np.take_along_axis(sims.T, t2i, 1).tolist(),
            ],
        },
    )


def write_ranks(path: Path, found: Recall, caption_to_image: npt.NDArray[np.int64]) -> None:
    """Write the metrics and the rank of every query, from 0, for ``models.compare``.

    Raises: WriteError: the file cannot be written.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.asarray(list(found)),
            values=np.asarray([found[name] for name in found]),
            i2t_ranks=found.i2t_ranks,
            t2i_ranks=found.t2i_ranks,
            i2t_images=found.i2t_images,
            caption_to_image=caption_to_image,
        )


def read_ranks(path: Path) -> tuple[Recall, npt.NDArray[np.int64]]:
    """Read what ``write_ranks`` wrote: the metrics and ranks, and the image of each caption.

    Raises:
        MissingInput: there is no such file.
        InputError: the file is damaged, or another program wrote it.
    """
    what = "a file of models.evaluate --ranks"
    with open_npz(path, what, "Write it: models.evaluate --ranks FILE.") as file:
        values = dict(zip(file["names"].tolist(), file["values"].tolist(), strict=True))
        *found, owner = (file[key].astype(np.int64) for key in _RANKS)
    if len(found[1]) != len(owner) or len(found[0]) != len(found[2]) or set(METRICS) - set(values):
        raise InputError(f"{path}: not a file of models.evaluate --ranks (wrong lengths or names).")
    return Recall(values, *found), owner


def write_positives(path: Path, store: Store, split: str, found: Found) -> None:
    """Write a row for each query of a set of positives.

    Columns: ``direction`` (i2t or t2i), ``query`` (image or caption id), ``ranks`` (from 1, of all
    right answers, best first), and the metrics of the query from 0 to 1.

    Raises: MissingDependency: pyarrow is not installed. WriteError: the file cannot be written.
    """
    image_ids = store.column("image_id")[store.image_rows(split)].tolist()
    caption_ids = store.column("caption_id")[store.caption_rows(split)].tolist()
    rows = list(rows_of(found, image_ids, caption_ids))
    _write_table(path, {name: [row[name] for row in rows] for name in rows[0]})


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency.of(
            "pyarrow", "writing per-query results", "pip install pyarrow"
        ) from error
    table = pa.table(dict(columns))
    with replacing(path) as partial:
        pq.write_table(table, partial)


def _best(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the columns of the ``TOP`` best scores per row, best first, ties by column."""
    top = min(TOP, scores.shape[1])
    some = np.sort(np.argpartition(-scores, top - 1, axis=1)[:, :top], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def print_table(rows: Sequence[Evaluation], setting: Setting) -> None:
    """Print the recalls of all rows, with their intervals below, and chance in the last row.

    On a narrow console only the sums have an interval, and the mean recall is left out.
    """
    folds = ", mean of five folds" if setting.fold5 else ""
    counts = f"{setting.images:,} images, {setting.captions:,} captions"
    names = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    columns = [Column("run", cut="start")]
    columns += [Column(name.replace("_r", "\nR@"), right=True) for name in names]
    columns += [Column(f"{way}\nmedr", right=True, rank=1) for way in ("i2t", "t2i")]
    columns += [Column("\nrsum", right=True, keep=True), Column("\nmR", right=True, rank=2)]
    names += ["i2t_medr", "t2i_medr", "rsum", "mr"]
    cells: list[Sequence[Cell]] = [
        (row.name, *(_cell(row.recall[name], row.intervals.get(name)) for name in names))
        for row in rows
    ]
    by_chance = setting.chance
    cells.append(("chance", *(f"{by_chance[n]:.1f}" if n in by_chance else "" for n in names)))
    print_rows(columns, cells, f"{setting.split}: {counts}{folds}")


def print_positives(rows: Sequence[Evaluation]) -> None:
    """Print the metrics of all sets of positives, in percent, with their intervals below."""
    heads = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "rprecision": "R-P", "map_at_r": "mAP@R"}
    names = [f"{way}_{part}" for way in ("i2t", "t2i") for part in PARTS]
    columns = [Column("run", cut="start"), Column("positives", cut="end")]
    columns += [
        Column(f"{way}\n{heads[part]}", right=True, rank=2 if part in ("r5", "r10") else 0)
        for way in ("i2t", "t2i")
        for part in PARTS
    ]
    cells: list[Sequence[Cell]] = [
        (row.name, name, *(_cell(found.values[key], found.intervals.get(key)) for key in names))
        for row in rows
        for name, found in row.positives.items()
    ]
    print_rows(columns, cells, "several right answers per query")


def print_differences(differences: Differences) -> None:
    """Print by how much runs differ, with bootstrap intervals and p below."""
    names = [name for name in METRICS if "med" not in name and "mean" not in name]
    names = [name for name in names if name != "mr"]
    columns = [Column("runs", cut="start")]
    columns += [
        Column(name.replace("_r", "\nR@"), right=True, rank=1 if name.endswith(("5", "10")) else 0,
               keep=True)
        for name in names
    ]  # fmt: skip
    cells: list[Sequence[Cell]] = [
        (
            f"{one} - {other}",
            *(
                (
                    f"{found[name].value:+.1f}",
                    f"{found[name].low:+.1f} {found[name].high:+.1f}\np {found[name].p:.3f}",
                )
                for name in names
            ),
        )
        for (one, other), found in differences.items()
    ]
    print_rows(columns, cells, "difference, 95 % interval of paired samples, p")


def _cell(value: float, interval: tuple[float, float] | None) -> Cell:
    return f"{value:.1f}", f"{interval[0]:.1f}-{interval[1]:.1f}" if interval else ""


def print_accuracies(rows: Sequence[Mapping[str, Any]], split: str) -> None:
    """Print the accuracy of each run by kind of negative, with intervals below."""
    kinds = rows[0]["kinds"]
    columns = [Column("run", cut="start")]
    columns += [
        Column(f"{kind['kind']}\n({kind['count']:,})", right=True, rank=0 if not at else 1 + at)
        for at, kind in enumerate(kinds)
    ]
    cells: list[Sequence[Cell]] = [
        (str(row["name"]), *(_cell(k["value"], _interval(k)) for k in row["kinds"])) for row in rows
    ]
    cells.append(("chance", *("50.0" for _ in kinds)))
    print_rows(columns, cells, f"{split}: a caption scores higher than its negative, %")


def _interval(kind: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the interval of an accuracy; None if no samples were drawn."""
    return (kind["low"], kind["high"]) if kind["low"] < kind["high"] else None


def print_agreement(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Print Kendall's tau of each run and set of ratings x 100, with intervals below."""
    columns = [Column("run", cut="start"), Column("set", cut="end")]
    columns += [Column(name, right=True, rank=1) for name in ("pairs", "left out", "ratings")]
    columns += [Column("images", right=True, rank=2)]
    columns += [Column(name, right=True, keep=True) for name in ("tau-b", "tau-c")]
    cells: list[Sequence[Cell]] = []
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("pairs", "left_out", "ratings", "images")]
        taus = []
        for name in ("tau_b", "tau_c"):
            ends = row[f"{name}_interval"]
            taus.append(_cell(100 * row[name], ends and (100 * ends[0], 100 * ends[1])))
        cells.append((str(row["name"]), str(row["set"]), *counts, *taus))
    print_rows(columns, cells, f"{file}: agreement with ratings, x 100")
