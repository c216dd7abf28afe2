"""Sections of the report: what the page shows of a store and its runs, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.commands import clock
from features.drawing import Thumbnails, strongest, with_kinds
from models.baselines import label_bag_scores
from models.evaluation import recall
from models.reporting.figures import arcs, overlay

if TYPE_CHECKING:
    from features.store import Store

STAGES = {
    "index": "Images and captions",
    "visual": "Scene graphs",
    "regions": "Region features",
    "tokens": "Parses",
    "text": "Triplets",
}
COUNTS = {
    "captions": "captions",
    "objects": "detected objects",
    "relations": "visual relations",
    "text_objects": "objects in captions",
    "attributes": "attributes",
    "triplets": "triplets",
}
BASELINE_SCORES = 20_000_000  # largest score matrix for which the label baseline is computed
TOP = 10


def facts(store: Store) -> list[tuple[str, str]]:
    """Return the key figures of a store as (name, formatted number)."""
    summary = store.manifest.get("summary", {})
    found = [("images", f"{len(store) - len(store.skipped):,}")]
    found += [(name, f"{summary[key]:,}") for key, name in COUNTS.items() if key in summary]
    found.append(("skipped images", f"{len(store.skipped):,}"))
    if summary.get("bytes"):
        found.append(("on disk", _size(sum(summary["bytes"].values()))))
    if summary.get("seconds"):
        times = dict(summary["seconds"])
        if times.get("visual") == times.get("regions"):
            times.pop("regions", None)  # computed together
        found.append(("to build", clock(sum(times.values()))))
    return found


def stages(store: Store) -> list[dict[str, str]]:
    """Return a row for each group of the store: name, folder, shards, build time and size."""
    summary = store.manifest.get("summary", {})
    seconds, sizes = summary.get("seconds", {}), summary.get("bytes", {})
    together = "regions" in seconds and seconds["regions"] == seconds.get("visual")
    rows = []
    for name, entry in sorted(
        store.manifest["groups"].items(), key=lambda item: (*STAGES, item[0]).index(item[0])
    ):
        group, _, variant = name.partition("@")
        time = clock(seconds[name]) if name in seconds else "–"
        rows.append(
            {
                "name": STAGES.get(group, group) + (f" ({variant})" if variant else ""),
                "folder": entry["folder"],
                "shards": f"{entry.get('shards', 0):,}",
                "seconds": "with the graphs" if together and name == "regions" else time,
                "size": _size(sizes[name]) if name in sizes else "–",
            }
        )
    return rows


def bars(store: Store) -> list[dict[str, Any]]:
    """Return bar charts of the most frequent labels, predicates and attributes."""
    charts: list[dict[str, Any]] = []

    def chart(title: str, column: str, real: Any = None) -> None:
        if store.has(column):
            coded = store.coded(column)
            codes = coded.codes if real is None else coded.codes[real]
            counts = np.bincount(codes.reshape(-1), minlength=len(coded.names))
            order = np.argsort(-counts, kind="stable")[:TOP]
            charts.append(_bar(title, [(coded.names[n], int(counts[n])) for n in order]))

    if store.has("labels"):
        slots = np.arange(store.coded("labels").codes.shape[1])
        chart("Detected labels", "labels", slots < store.column("num_objects")[:, None])
        slots = np.arange(store.coded("predicates").codes.shape[1])
        chart("Visual predicates", "predicates", slots < store.column("num_relations")[:, None])
    chart("Objects in captions", "object_lemma")
    chart("Attributes in captions", "attribute")
    chart("Predicates in captions", "relation_predicate")
    if store.has("relation_predicate"):
        counts = np.bincount(np.minimum(np.diff(store.offsets("relation_offsets")), 8))
        names = [f"{n}" if n < 8 else "8 or more" for n in range(len(counts))]
        charts.append(_bar("Triplets per caption", list(zip(names, counts.tolist(), strict=True))))
    return [one for one in charts if one["rows"]]


def _bar(title: str, rows: Sequence[tuple[str, int]]) -> dict[str, Any]:
    largest = max((count for _, count in rows), default=0)
    return {
        "title": title,
        "rows": [
            {"name": name, "count": f"{count:,}", "share": f"{100 * count / largest:.1f}"}
            for name, count in rows
            if count or title == "Triplets per caption"
        ],
    }


def results(store: Store, split: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of recalls: a row per model, then the label baseline and chance."""
    rows = []
    for run in runs:
        for row in run["results"].get("rows", ()):
            suffix = " + re-ranking" if "re-ranking" in row["name"] else ""
            rows.append({**row, "name": run["name"] + suffix, "kind": "model"})
    if not rows:
        return {}
    best = {name: max(row["metrics"].get(name, 0.0) for row in rows) for name in rows[0]["metrics"]}
    first = next(run["results"] for run in runs if run["results"])
    scores = len(store.image_rows(split)) * len(store.caption_rows(split))
    baselines = {"Chance": first["chance"]}
    has_both = store.has("labels") and store.has("form") and "train" in store.splits
    if has_both and split != "train" and scores <= BASELINE_SCORES:
        found = recall(label_bag_scores(store, split), store.caption_image_rows(split))
        baselines = {"Detected labels only": dict(found), **baselines}
    for name, metrics in baselines.items():
        rows.append({"name": name, "metrics": metrics, "intervals": {}, "kind": "baseline"})
    return {"rows": rows, "best": best, "images": first["images"], "captions": first["captions"]}


def graphs(store: Store, split: str, thumbnails: Thumbnails, count: int) -> list[dict[str, Any]]:
    """Return some images of a split with their drawn graphs, relations and captions."""
    if not store.has("labels") or not split:
        return []
    images = store.images[store.images["row"].isin(store.image_rows(split))]
    shown = []
    for number, at in enumerate(_some(len(images), count)):
        image = images.iloc[at]
        graph = with_kinds(store.graph(str(image["id"])))
        chosen = strongest(graph, max_objects=10, max_relations=6)
        texts = store.captions[store.captions["image_row"] == image["row"]]["text"]
        shown.append(
            {
                "id": str(image["id"]),
                "size": graph.size,
                "thumbnail": thumbnails.data(str(image["file"]), 640),
                "overlay": overlay(graph, chosen, f"tip{number}"),
                "objects": len(graph.labels),
                "relations": len(graph.relations),
                "edges": [
                    (graph.labels[s], predicate, graph.labels[o])
                    for s, predicate, o in (graph.relations[row] for row in chosen.relations)
                ],
                "captions": texts.tolist()[:2],
            }
        )
    return shown


def captions(store: Store, split: str, count: int) -> list[dict[str, Any]]:
    """Return some parsed captions of a split, if possible of 8 to 18 words with triplets."""
    if not (store.has("form") and store.has("relation_predicate") and split):
        return []
    rows = store.caption_rows(split)
    triplets = np.diff(store.offsets("relation_offsets"))[rows]
    length = np.diff(store.offsets("token_offsets"))[rows]
    good = np.flatnonzero((length >= 8) & (length <= 18) & (triplets >= 2))
    good = good if len(good) else np.arange(len(rows))
    ids = store.column("caption_id")[rows]
    found = [store.text(ids[good[at]]) for at in _some(len(good), count)]
    return [{"graph": graph, "arcs": arcs(graph)} for graph in found if graph.tokens]


def _some(total: int, count: int) -> list[int]:
    """Return up to ``count`` positions of ``total``, always the same ones, ascending."""
    order = np.random.default_rng(0).permutation(total)[:count]
    return sorted(int(at) for at in order)


def _size(count: float) -> str:
    """Return a number of bytes with a unit.

    >>> _size(512), _size(13_600_000)
    ('512 B', '13.6 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
