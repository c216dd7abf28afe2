"""Retrieval examples: queries with the first results of several runs, and the worst failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.drawing import Thumbnails
from features.errors import InputError, MissingDependency

if TYPE_CHECKING:
    import pandas as pd

    from features.store import Store

SHOWN = 5
SIDE = 176  # pixels of a small photo


def retrieval_gallery(
    store: Store, tables: Sequence[tuple[str, Path]], thumbnails: Thumbnails, count: int
) -> dict[str, Any]:
    """Return queries of both directions with the first five results of each run.

    An image has one query at most, of one direction or the other, unless there are too few images.
    The queries are spread over the ranks of the first run, from best to worst, so that the page
    shows failures, too.

    Args:
        store: the store that was evaluated.
        tables: (name, table that ``models.evaluate`` wrote) of each run, best first.
        thumbnails: of its images.   count: queries per direction.

    Returns:
        ``t2i`` and ``i2t``: queries with ``text``, ``truth`` (an image) and ``runs``, which have
        ``name``, ``rank``, ``missed`` and ``answers``.

    Raises: MissingDependency: pyarrow is not installed. InputError: a table cannot be read.
    """
    found = [(name, read_queries(path)) for name, path in tables]
    asked: set[str] = set()
    shown: dict[str, Any] = {"t2i": [], "i2t": []}
    for way in ("t2i", "i2t"):
        first = found[0][1]
        first = first[first["direction"] == way]
        for query in _pick(first.assign(image=_images(store, first, way)), count, asked):
            shown[way].append(_query(store, found, way, query, thumbnails))
    return shown


def failures(store: Store, table: Path, thumbnails: Thumbnails, count: int) -> list[dict[str, Any]]:
    """Return the captions whose image has the worst ranks, one per image, worst first.

    Returns: queries as ``retrieval_gallery`` has them, of one run without a name.
    """
    found = read_queries(table)
    found = found[(found["direction"] == "t2i") & (found["rank"] > 1)]
    found = found.assign(image=_images(store, found, "t2i"))
    worst = found.sort_values("rank", ascending=False, kind="stable").drop_duplicates("image")
    whole = [("", read_queries(table))]
    return [
        _query(store, whole, "t2i", str(name), thumbnails) for name in worst["query"].head(count)
    ]


def read_queries(path: Path) -> pd.DataFrame:
    """Read the table of queries that ``models.evaluate`` wrote.

    Raises: MissingDependency: pyarrow is not installed. InputError: the table cannot be read.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        command = "pip install pyarrow"
        raise MissingDependency.of("pyarrow", "the retrieval gallery", command) from error
    try:
        table: pd.DataFrame = pq.read_table(path).to_pandas()
    except (OSError, ValueError) as error:
        message = f"{path}: not a table of models.evaluate. Run it again."
        raise InputError(message) from error
    return table


def _images(store: Store, table: pd.DataFrame, way: str) -> list[str]:
    """Return the image of each query."""
    names = [str(name) for name in table["query"]]
    if way == "i2t":
        return names
    return [str(image) for image in store.captions.set_index("id").loc[names, "image"]]


def _query(
    store: Store,
    tables: Sequence[tuple[str, pd.DataFrame]],
    way: str,
    name: str,
    thumbnails: Thumbnails,
) -> dict[str, Any]:
    """Return a query and the answers of each run that has it."""
    images, captions = store.images.set_index("id"), store.captions.set_index("id")

    def image(name: str) -> dict[str, str]:
        return {"id": name, "thumbnail": thumbnails.data(str(images.at[name, "file"]), SIDE)}

    truth = str(captions.at[name, "image"]) if way == "t2i" else name
    runs = []
    for run, table in tables:
        rows = table[(table["direction"] == way) & (table["query"] == name)]
        if not len(rows):
            continue
        row = rows.iloc[0]
        best = []
        for one, score in zip(map(str, row["answers"]), row["scores"], strict=True):
            owner = one if way == "t2i" else captions.at[one, "image"]
            best.append((-score, bool(owner == truth), one))
        best.sort(key=lambda item: item[:2])  # right answers last among equal scores, as in ranks
        answers: list[dict[str, Any]] = [
            {"id": one, "score": f"{-score:.2f}", "right": right}
            for score, right, one in best[:SHOWN]
        ]
        for answer in answers:
            if way == "t2i":
                answer |= image(answer["id"])
            else:
                answer["text"] = str(captions.at[answer["id"], "text"])
        missed = not any(answer["right"] for answer in answers)
        runs.append({"name": run, "rank": int(row["rank"]), "answers": answers, "missed": missed})
    text = str(captions.at[name, "text"]) if way == "t2i" else ""
    return {"text": text, "truth": image(truth), "runs": runs}


def _pick(table: pd.DataFrame, count: int, asked: set[str]) -> list[str]:
    """Return queries: about half with rank 1, a quarter up to ``SHOWN``, a quarter above it.

    Args:
        table: query, image and rank.   count: how many.
        asked: images that have a query already; those of the result are added.
    """
    ordered = table.sort_values("rank", kind="stable")
    if (~ordered["image"].isin(asked)).sum() >= min(count, len(ordered)):
        ordered = ordered[~ordered["image"].isin(asked)]
    ranks = ordered["rank"].to_numpy()
    groups = [ranks == 1, (ranks > 1) & (ranks <= SHOWN), ranks > SHOWN, ranks > 0]
    wanted = [count - 2 * (count // 4), count // 4, count // 4, count]
    picks: dict[str, int] = {}  # image -> position
    for group, number in zip(groups, wanted, strict=True):
        new = ordered.assign(at=np.arange(len(ordered)))[group]
        new = new[~new["image"].isin(picks)].drop_duplicates("image")
        number = min(number, count - len(picks), len(new))
        for place in ((np.arange(number) + 0.5) * len(new) / max(number, 1)).astype(int).tolist():
            picks[str(new["image"].iloc[place])] = int(new["at"].iloc[place])
    asked.update(picks)
    return [str(ordered["query"].iloc[at]) for at in sorted(picks.values())]
