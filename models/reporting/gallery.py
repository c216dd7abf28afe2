"""Retrieval examples of the report: queries with their first results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.drawing import Thumbnails
from features.errors import InputError, MissingDependency

if TYPE_CHECKING:
    import pandas as pd

    from features.store import Store

SHOWN = 5


def retrieval_gallery(
    store: Store, queries: Path, thumbnails: Thumbnails, count: int
) -> dict[str, Any]:
    """Return queries of both directions with their first five results.

    Queries are spread over the ranks, from best to worst, so that the page shows failures, too.

    Args:
        store: the store that was evaluated.   queries: table that ``models.evaluate`` wrote.
        thumbnails: of its images.   count: queries per direction.

    Raises: MissingDependency: pyarrow is not installed. InputError: the table cannot be read.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        command = "pip install pyarrow"
        raise MissingDependency.of("pyarrow", "the retrieval gallery", command) from error
    try:
        table: Any = pq.read_table(queries).to_pandas()
    except (OSError, ValueError) as error:
        message = f"{queries}: not a table of models.evaluate. Run it again."
        raise InputError(message) from error
    images, captions = store.images.set_index("id"), store.captions.set_index("id")

    def image(name: str) -> dict[str, str]:
        return {"id": name, "thumbnail": thumbnails.data(str(images.at[name, "file"]), 240)}

    shown: dict[str, Any] = {}
    for way in ("t2i", "i2t"):
        asked = []
        for _, row in _pick(table[table["direction"] == way], count).iterrows():
            name = str(row["query"])
            truth = str(captions.at[name, "image"]) if way == "t2i" else name
            best = []
            for one, score in zip(map(str, row["answers"]), row["scores"], strict=True):
                image_id = one if way == "t2i" else captions.at[one, "image"]
                best.append((-score, bool(image_id == truth), one))
            best.sort(
                key=lambda item: item[:2]
            )  # right answers last among equal scores, as in ranks
            found: list[dict[str, Any]] = [
                {"id": one, "score": f"{-score:.2f}", "right": right}
                for score, right, one in best[:SHOWN]
            ]
            for answer in found:
                if way == "t2i":
                    answer |= image(answer["id"])
                else:
                    answer["text"] = str(captions.at[answer["id"], "text"])
            asked.append(
                {
                    "rank": int(row["rank"]),
                    "answers": found,
                    "text": str(captions.at[name, "text"]) if way == "t2i" else "",
                    "truth": image(truth),
                    "missed": not any(answer["right"] for answer in found),
                }
            )
        shown[way] = asked
    return shown


def _pick(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return queries: about half with rank 1, a quarter up to ``SHOWN``, a quarter above it."""
    ordered = table.sort_values("rank", kind="stable")
    if len(ordered) <= count:
        return ordered
    ranks = ordered["rank"].to_numpy()
    groups = [np.flatnonzero(ranks == 1), np.flatnonzero((ranks > 1) & (ranks <= SHOWN)),
              np.flatnonzero(ranks > SHOWN)]  # fmt: skip
    wanted = [count - 2 * (count // 4), count // 4, count // 4]
    picks: list[int] = []
    for group, number in zip(groups, wanted, strict=True):
        if len(group):
            picks += group[np.linspace(0, len(group) - 1, number + 2).astype(int)[1:-1]].tolist()
    rest = np.linspace(0, len(ordered) - 1, count).astype(int).tolist()
    for at in rest:
        if len(set(picks)) < count:
            picks.append(at)
    return ordered.iloc[sorted(set(picks))[:count]]
