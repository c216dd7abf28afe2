"""Sections of the report: what the page shows of a store and its runs, as plain values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from features.commands import clock
from features.drawing import Thumbnails, arcs_svg, facts, strongest, whole_image, with_kinds
from models.baselines import label_bag_scores
from models.evaluation import recall
from models.reporting.charts import histogram
from models.reporting.figures import overlay

if TYPE_CHECKING:
    from features.store import Store

STAGES = {
    "index": "Images and captions",
    "visual": "Scene graphs",
    "regions": "Region features",
    "tokens": "Parses",
    "text": "Triplets",
}
BASELINE_SCORES = 20_000_000  # largest score matrix for which the label baseline is computed
TOP = 10
EDGES = 3  # relations drawn on a photo, with their words
CHIPS = 6  # relations listed below it
UNSURE = 4.0  # points of R@1 that a split must resolve for a comparison of models


def identity(store: Store) -> list[tuple[str, str]]:
    """Return what a store is as (name, value): data set, plug-ins, date and hash."""
    found = [("data set", str(store.manifest["dataset"]))]
    for name, group, key in (
        ("detector", "visual", "detector"),
        ("relations", "visual", "relations"),
        ("features", "regions", "features"),
        ("parser", "tokens", "parser"),
        ("profile", "text", "profile"),
    ):
        value = _parameter(store, group, key)
        found += [(name, value)] if value else []
    day = datetime.fromtimestamp(store.path.stat().st_mtime, UTC)
    return [*found, ("built", f"{day:%Y-%m-%d}"), ("hash", store.hash[:12])]


def _parameter(store: Store, group: str, key: str) -> str:
    """Return the name of a plug-in that a group was built with, "" if it is not recorded."""
    if group not in store.manifest["groups"]:
        return ""
    parameters = store.group(group).manifest.params.get("parameters", {})
    value = parameters.get(key, "") if isinstance(parameters, dict) else ""
    return str(value.get("name", "")) if isinstance(value, dict) else str(value)


def counts(store: Store) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return the main counts as (name, number, average), and the others as (name, number)."""
    summary = store.manifest.get("summary", {})
    images = len(store) - len(store.skipped)
    captions = summary.get("captions", len(store.group("index").text("caption_id")))

    def main(name: str, count: int, over: int, each: str) -> tuple[str, str, str]:
        average = f"{count / over:.1f} per {each}" if over and each else ""
        return name, f"{count:,}", average

    sizes = sorted(store.splits.items(), key=lambda item: -len(item[1]))
    splits = ", ".join(f"{name} {len(rows):,}" for name, rows in sizes)
    large = [("images", f"{images:,}", splits), main("captions", captions, images, "image")]
    for key, name in (("objects", "detected objects"), ("relations", "visual relations")):
        if summary.get(key):
            large.append(main(name, summary[key], images, "image"))
    if summary.get("triplets"):
        large.append(main("caption triplets", summary["triplets"], captions, "caption"))
    small = [
        (name, f"{summary[key]:,}")
        for key, name in (("text_objects", "objects in captions"), ("attributes", "attributes"))
        if key in summary
    ]
    small.append(("skipped images", f"{len(store.skipped):,}"))
    if summary.get("bytes"):
        small.append(("on disk", _size(sum(summary["bytes"].values()))))
    if summary.get("seconds"):
        times = dict(summary["seconds"])
        if times.get("visual") == times.get("regions"):
            times.pop("regions", None)  # computed together
        small.append(("to build", clock(sum(times.values()))))
    return large, small


def histograms(store: Store) -> list[str]:
    """Draw the numbers of objects and relations per image, of words and triplets per caption."""
    charts = []
    for column, title in (
        ("num_objects", "Objects per image"),
        ("num_relations", "Relations per image"),
    ):
        if store.has(column):
            charts.append(histogram(store.column(column)[store.usable], title))
    for offsets, needs, title in (
        ("token_offsets", "form", "Words per caption"),
        ("relation_offsets", "relation_predicate", "Triplets per caption"),
    ):
        if store.has(needs):
            charts.append(histogram(np.diff(store.offsets(offsets)), title))
    return [chart for chart in charts if chart]


def skipped(store: Store) -> list[dict[str, Any]]:
    """Return why images were skipped: reason, how many and the first ones, frequent ones first."""
    images: dict[str, list[str]] = defaultdict(list)
    for name, reason in store.skipped.items():
        images[reason].append(name)
    return [
        {"reason": reason, "count": len(names), "examples": names[:5]}
        for reason, names in sorted(images.items(), key=lambda item: -len(item[1]))
    ]


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
    return [one for one in charts if one["rows"]]


def _bar(title: str, rows: Sequence[tuple[str, int]]) -> dict[str, Any]:
    largest = max((count for _, count in rows), default=0)
    return {
        "title": title,
        "rows": [
            {"name": name, "count": f"{count:,}", "share": f"{100 * count / largest:.1f}"}
            for name, count in rows
            if count
        ],
    }


def results(store: Store, split: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of recalls: a row per model, then the label baseline and chance.

    Returns:
        ``rows`` with name, metrics, intervals and kind (model, baseline or chance), ``best`` metric
        values of all rows, ``warnings``, ``images``, ``captions`` and whether rows have
        ``intervals``; {} without results.
    """
    rows = []
    for run in runs:
        for row in run["results"].get("rows", ()):
            suffix = " + re-ranking" if "re-ranking" in row["name"] else ""
            kind = "model" if run["learns"] else "baseline"
            rows.append({**row, "name": run["name"] + suffix, "kind": kind})
    if not rows:
        return {}
    first = next(run["results"] for run in runs if run["results"])
    scores = len(store.image_rows(split)) * len(store.caption_rows(split))
    has_both = store.has("labels") and store.has("form") and "train" in store.splits
    if has_both and split != "train" and scores <= BASELINE_SCORES:
        found = recall(label_bag_scores(store, split), store.caption_image_rows(split))
        name = "Detected labels only"
        rows.append({"name": name, "metrics": dict(found), "intervals": {}, "kind": "baseline"})
    rows.sort(key=lambda row: (row["kind"] != "model", -row["metrics"]["rsum"]))
    chance = {"metrics": first["chance"], "intervals": {}, "kind": "chance"}
    best = {name: max(row["metrics"].get(name, 0.0) for row in rows) for name in rows[0]["metrics"]}
    return {
        "rows": [*rows, {"name": "Chance", **chance}],
        "best": best,
        "warnings": warnings(rows, first["images"]),
        "images": first["images"],
        "captions": first["captions"],
        "intervals": any(row["intervals"] for row in rows),
    }


def warnings(rows: Sequence[dict[str, Any]], images: int) -> list[str]:
    """Return what a reader of a table of recalls must know.

    Args:
        rows: models and baselines, see ``results``.   images: how many the split has.
    """
    found = []
    models = [row for row in rows if row["kind"] == "model"]
    for baseline in (row for row in rows if row["kind"] == "baseline"):
        total = baseline["metrics"]["rsum"]
        below = [row for row in models if row["metrics"]["rsum"] <= total]
        if below:
            names = ", ".join(f"{row['name']} ({row['metrics']['rsum']:.1f})" for row in below)
            found.append(
                f"Not better than the baseline “{baseline['name']}” (rSum {total:.1f}): {names}."
            )
    ranked = sorted(rows, key=lambda row: -row["metrics"]["rsum"])
    share = min(max(ranked[0]["metrics"]["i2t_r1"] / 100, 0.1), 0.9)
    unsure = 196 * math.sqrt(share * (1 - share) / max(images, 1))
    if unsure > UNSURE:
        found.append(
            f"The split has {images:,} images, so R@1 is uncertain by about "
            f"±{unsure:.0f} points: too few to compare models that are closer."
        )
    ends = [row["intervals"].get("rsum") for row in ranked[:2]]
    if len(ranked) > 1 and all(ends) and ends[1][1] >= ends[0][0]:
        found.append(
            f"The intervals of the two best rows, {ranked[0]['name']} and {ranked[1]['name']}, "
            "overlap. Compare them query by query: models.evaluate --paired."
        )
    return found


def sure_images(store: Store, split: str) -> tuple[list[str], int]:
    """Return the images of a split with a relation to show, and the number of all its images."""
    if not store.has("labels") or not split:
        return [], 0
    rows = store.image_rows(split)
    ids = store.group("index").text("image_id")
    if not len(rows):
        return [], 0
    first = store.graph(ids[int(rows[0])])
    scores, pairs = store.gather("scores", rows), store.gather("relations", rows)
    sure = store.gather("relation_scores", rows) >= first.relations_shown
    sure &= np.arange(sure.shape[1]) < store.gather("num_relations", rows).reshape(-1, 1)
    if first.shown and scores.shape[1]:
        ends = np.clip(pairs, 0, scores.shape[1] - 1)
        sure &= np.take_along_axis(scores[:, None], ends, 2).min(2) >= first.shown
    return [ids[int(row)] for row in rows[sure.any(1)]], len(rows)


def graphs(
    store: Store, split: str, names: Sequence[str], thumbnails: Thumbnails, count: int
) -> list[dict[str, Any]]:
    """Return some images of a split with their drawn graphs, relations and captions.

    Args:
        store: an opened store.   split: of the images.
        names: images to choose from, if there are enough.
        thumbnails: of the images.   count: how many to return.
    """
    if not store.has("labels") or not split:
        return []
    images = store.images[store.images["row"].isin(store.image_rows(split))]
    if len(names) >= count:
        images = images[images["id"].isin(names)]
    shown = []
    for number, at in enumerate(_some(len(images), count)):
        image = images.iloc[at]
        graph = with_kinds(store.graph(str(image["id"])))
        chosen = strongest(graph, max_objects=10, max_relations=EDGES)
        said = facts(graph)
        by_row = {fact.row: fact for fact in said}
        drawn = [by_row[row] for row in chosen.relations]
        listed = [*drawn, *(fact for fact in said if fact not in drawn)][:CHIPS]
        texts = store.captions[store.captions["image_row"] == image["row"]]["text"]
        relations = sum(fact.count for fact in listed)
        shown.append(
            {
                "id": str(image["id"]),
                "size": graph.size,
                "thumbnail": thumbnails.data(str(image["file"]), 640),
                "overlay": overlay(graph, chosen, f"tip{number}"),
                "showing": [
                    _showing(len(chosen.objects), len(graph.labels), "objects", graph.shown),
                    _showing(relations, len(graph.relations), "relations", graph.relations_shown),
                ],
                "everywhere": whole_image(graph, chosen),
                "drawn": len(drawn),
                "facts": listed,
                "captions": texts.tolist()[:2],
            }
        )
    return shown


def _showing(some: int, total: int, what: str, least: float) -> str:
    """Return how much is shown.

    >>> _showing(6, 25, "relations", 0.3)
    '6 of 25 relations (confidence ≥ 0.30)'
    """
    confidence = f" (confidence \N{GREATER-THAN OR EQUAL TO} {least:.2f})" if least else ""
    return f"{some} of {total} {what}{confidence}"


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
    return [{"graph": graph, "arcs": arcs_svg(graph)} for graph in found if graph.tokens]


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
