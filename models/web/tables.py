"""Tables of the runs of a store: recalls, paired differences and failures, from their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import InputError, ScenestoreError
from features.web import Site
from models.evaluation import Recall, paired_bootstrap
from models.reporting import read_queries, read_run
from models.training import store_keys
from models.web.served import Served

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["differences", "evaluated_splits", "failures", "results"]

RECALLS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
SAMPLES = 500  # of the paired bootstrap


def evaluated_splits(runs: Sequence[Served]) -> list[str]:
    """Return the splits that a run was evaluated on, ``test`` first."""
    found = set()
    for run in runs:
        for path in run.folder.glob("results-*.json"):
            try:
                found.add(str(json.loads(path.read_text(encoding="utf-8"))["split"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # read_run says what is wrong with it
    return sorted(found, key=lambda split: (split != "test", split))


def results(site: Site, runs: Sequence[Served], split: str) -> dict[str, Any]:
    """Return the rows of a recall table, the best value of each column, and what was read.

    Returns: ``rows`` (name, run, metrics, intervals), ``best``, ``chance``, ``images``,
        ``captions``, ``problems`` (messages) and ``runs`` (as ``read_run`` returns them).
    """
    rows: list[dict[str, Any]] = []
    problems, read = [], []
    chance: dict[str, float] = {}
    counts = {"images": 0, "captions": 0}
    keys = store_keys(site.store)
    for run in runs:
        try:
            found = read_run(run.folder, split, keys)
        except ScenestoreError as error:
            problems.append(str(error))
            continue
        read.append({**found, "name": run.name})
        for row in found["results"].get("rows", ()):
            suffix = " + re-ranking" if "re-ranking" in row["name"] else ""
            rows.append({**row, "name": run.name + suffix, "run": run})
        if found["results"]:
            chance = found["results"]["chance"]
            counts = {name: found["results"][name] for name in counts}
    best = {
        name: max((row["metrics"][name] for row in rows), default=0.0)
        for name in (*RECALLS, "rsum")
    }
    return {
        "rows": rows,
        "best": best,
        "chance": chance,
        "problems": problems,
        "runs": read,
        **counts,
    }


def differences(site: Site, found: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """Return by how much the best run differs from each other one, with paired intervals.

    Returns: ``one`` and ``other`` (names), and ``metrics``: name -> value, low, high, p.
    """
    tables = {run["name"]: run["queries"] for run in found["runs"] if run["queries"]}
    ranked = sorted(
        (row for row in found["rows"] if row["name"] in tables),
        key=lambda row: -row["metrics"]["rsum"],
    )
    if len(ranked) < 2:
        return []

    def make() -> list[dict[str, Any]]:
        recalls = [(row["name"], _recall(site, tables[row["name"]], split)) for row in ranked]
        owner = site.store.caption_image_rows(split)
        first, best = recalls[0]
        return [
            {"one": first, "other": name, "metrics": paired_bootstrap(best, other, owner, SAMPLES)}
            for name, other in recalls[1:]
        ]

    key = tuple((row["name"], Path(tables[row["name"]]).stat().st_mtime_ns) for row in ranked)
    made: list[dict[str, Any]] = site.cache.get(("differences", split, key), make)
    return made


def _recall(site: Site, path: Path, split: str) -> Recall:
    """Return the recall of a table of queries, with the rank of each query."""
    table = read_queries(path)
    images = {name: at for at, name in enumerate(_ids(site, "image_id", split))}
    captions = {name: at for at, name in enumerate(_ids(site, "caption_id", split))}
    ways = {way: table[table["direction"] == way] for way in ("i2t", "t2i")}
    try:
        asked = np.asarray([images[str(name)] for name in ways["i2t"]["query"]], np.int64)
        places = np.asarray([captions[str(name)] for name in ways["t2i"]["query"]], np.int64)
    except KeyError as error:
        raise InputError(f"{path}: {error} is not in {split}. Run models.evaluate again.") from None
    i2t = ways["i2t"]["rank"].to_numpy(np.int64) - 1
    t2i = np.empty(len(captions), np.int64)
    if len(places) != len(captions):
        raise InputError(f"{path}: not every caption of {split}. Run models.evaluate again.")
    t2i[places] = ways["t2i"]["rank"].to_numpy(np.int64) - 1
    order = np.argsort(asked, kind="stable")
    return Recall.of_ranks(i2t[order], t2i, asked[order])


def _ids(site: Site, column: str, split: str) -> list[str]:
    store = site.store
    rows = store.image_rows(split) if column == "image_id" else store.caption_rows(split)
    text = store.group("index").text(column)
    return [text[row] for row in rows.tolist()]


def failures(site: Site, path: Path, count: int) -> list[dict[str, Any]]:
    """Return the captions whose image has the worst rank, one per image, worst first.

    Returns: ``rank``, ``caption`` (text), ``image`` (its row) and ``answers``: (image row, score).
    """
    table: pd.DataFrame = read_queries(path)
    worst = table[(table["direction"] == "t2i") & (table["rank"] > 1)]
    worst = worst.sort_values("rank", ascending=False, kind="stable")
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    store = site.store
    for _, query in worst.head(20 * count).iterrows():
        caption = int(store.rows_of_captions([str(query["query"])])[0])
        image = int(store.image_of_caption([caption])[0])
        if image in seen:
            continue
        seen.add(image)
        rows = store.rows([str(name) for name in query["answers"]]).tolist()
        found.append(
            {
                "rank": int(query["rank"]),
                "caption": site.caption(caption),
                "caption_row": caption,
                "image": image,
                "answers": list(zip(rows, map(float, query["scores"]), strict=True))[:5],
            }
        )
        if len(found) == count:
            break
    return found
