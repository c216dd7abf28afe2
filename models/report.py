"""One self-contained page about a store and the models trained from it.

``python -m models.report STORE [RUN ...] --images-dir DIR --out report.html``

The page needs no network and no other file: pictures are embedded, figures are inline SVG. What is
missing (pictures, runs, evaluations) is left out, and the page says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.commands.program import exit_cleanly
from features.errors import MissingDependency, WriteError
from models.reporting.figures import arcs, overlay
from models.reporting.gallery import Thumbnails, gallery
from models.reporting.runs import read_run

if TYPE_CHECKING:
    from features.store import Store

__all__ = ["main", "write_report"]

STAGES = {
    "index": "Images and captions",
    "visual": "Scene graphs",
    "regions": "Region features",
    "tokens": "Parses",
    "text": "Triplets",
}
BASELINE_SCORES = 20_000_000  # largest score matrix for which the label baseline is computed
TOP = 10


def write_report(
    out: Path,
    store: Store | Path,
    runs: Sequence[Path] = (),
    *,
    images_dir: Path | None = None,
    split: str = "test",
    examples: int = 6,
) -> Path:
    """Write the report of a store and its runs.

    Args:
        out: the HTML file.
        store: an opened store, or its path.
        runs: run folders; curves come from ``metrics.csv``, numbers and answers from what
            ``models.evaluate`` left there for ``split``.
        images_dir: folder of the pictures; without it graphs stand on empty sheets.
        split: where examples and results come from; another one when the store lacks it.
        examples: pictures, captions and queries shown.

    Returns:
        ``out``.

    Raises:
        MissingDependency: Jinja2 is not installed.
        MissingInput: a run folder that is not there.
        InputError: a results or queries file that cannot be read.
        MismatchError: results of another store.
        WriteError: ``out`` cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        command = "pip install 'scenestore[viz]'"
        raise MissingDependency.of("jinja2", "the report", command) from error
    from features.store import open_store
    from models.training.runs import resolve_split, store_keys

    opened = open_store(store) if isinstance(store, str | Path) else store
    if "[" in split:
        resolve_split(opened, split)
    elif split not in opened.splits:
        split = max(opened.splits, key=lambda name: len(opened.splits[name]), default="")
    thumbnails = Thumbnails(images_dir)
    found = [read_run(Path(run), split, store_keys(opened)) for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.j2").render(
        store=opened,
        split=split,
        facts=_facts(opened),
        stages=_stages(opened),
        bars=_bars(opened),
        results=_results(opened, split, found),
        runs=found,
        trained=[run for run in found if run["learns"]],
        graphs=_graphs(opened, split, thumbnails, examples),
        captions=_captions(opened, split, examples),
        galleries=[
            {"name": run["name"], **gallery(opened, run["queries"], thumbnails, examples)}
            for run in found
            if run["learns"] and run["queries"] is not None
        ],
        pictures=images_dir is not None,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        partial.write_text(page, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise WriteError(f"{out}: the report cannot be written ({error.strerror}).") from error
    return out


def _facts(store: Store) -> list[tuple[str, str]]:
    """Return the key figures of a store: name, number as people read it."""
    summary = store.manifest.get("summary", {})
    facts = [("images", f"{len(store) - len(store.skipped):,}")]
    facts += [
        (name.replace("_", " "), f"{summary[name]:,}")
        for name in ("captions", "objects", "relations", "text_objects", "attributes", "triplets")
        if name in summary
    ]
    renamed = {"objects": "detected objects", "relations": "visual relations",
               "text objects": "objects in captions"}  # fmt: skip
    facts = [(renamed.get(name, name), number) for name, number in facts]
    facts.append(("skipped images", f"{len(store.skipped):,}"))
    if summary.get("bytes"):
        facts.append(("on disk", _size(sum(summary["bytes"].values()))))
    if summary.get("seconds"):
        times = dict(summary["seconds"])
        if times.get("visual") == times.get("regions"):
            times.pop("regions", None)  # one pass made both
        facts.append(("to build", _duration(sum(times.values()))))
    return facts


def _stages(store: Store) -> list[dict[str, str]]:
    """Return one row per group of the store: what, key, seconds, bytes."""
    summary = store.manifest.get("summary", {})
    seconds, sizes = summary.get("seconds", {}), summary.get("bytes", {})
    together = "regions" in seconds and seconds["regions"] == seconds.get("visual")
    rows = []
    for name, entry in sorted(
        store.manifest["groups"].items(), key=lambda item: (*STAGES, item[0]).index(item[0])
    ):
        group, _, variant = name.partition("@")
        time = _duration(seconds[name]) if name in seconds else "–"
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


def _bars(store: Store) -> list[dict[str, Any]]:
    """Return titled bar lists: frequent predicates and things, triplets per caption."""
    charts: list[dict[str, Any]] = []

    def most(title: str, column: str, real: Any = None) -> None:
        if store.has(column):
            coded = store.coded(column)
            codes = coded.codes if real is None else coded.codes[real]
            counts = np.bincount(codes.reshape(-1), minlength=len(coded.names))
            order = np.argsort(-counts, kind="stable")[:TOP]
            charts.append(_bar(title, [(coded.names[n], int(counts[n])) for n in order]))

    if store.has("labels"):
        slots = np.arange(store.coded("labels").codes.shape[1])
        most("Detected kinds", "labels", slots < store.column("num_objects")[:, None])
        slots = np.arange(store.coded("predicates").codes.shape[1])
        most("Visual predicates", "predicates", slots < store.column("num_relations")[:, None])
    most("Things in captions", "object_lemma")
    most("Attributes in captions", "attribute")
    most("Predicates in captions", "relation_predicate")
    if store.has("relation_predicate"):
        counts = np.bincount(np.minimum(np.diff(store.offsets("relation_offsets")), 8))
        names = [f"{n}" if n < 8 else "8 or more" for n in range(len(counts))]
        charts.append(_bar("Triplets per caption", list(zip(names, counts.tolist(), strict=True))))
    return [chart for chart in charts if chart["rows"]]


def _bar(title: str, rows: Sequence[tuple[str, int]]) -> dict[str, Any]:
    most = max((count for _, count in rows), default=0)
    return {
        "title": title,
        "rows": [
            {"name": name, "count": f"{count:,}", "share": f"{100 * count / most:.1f}"}
            for name, count in rows
            if count or title == "Triplets per caption"
        ],
    }


def _results(store: Store, split: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the recall table: a row per model, then the label baseline and chance."""
    rows = [
        {**row, "name": run["name"] + (" + re-ranking" if "re-ranking" in row["name"] else ""),
         "kind": "model"}
        for run in runs
        for row in run["results"].get("rows", ())
    ]  # fmt: skip
    if not rows:
        return {}
    best = {name: max(row["metrics"].get(name, 0.0) for row in rows) for name in rows[0]["metrics"]}
    first = next(run["results"] for run in runs if run["results"])
    scores = len(store.image_rows(split)) * len(store.caption_rows(split))
    if {"labels", "form"} <= {c for c in ("labels", "form") if store.has(c)} and (
        "train" in store.splits and split != "train" and scores <= BASELINE_SCORES
    ):
        from models.baselines.label_bags import label_bag_scores
        from models.evaluation.metrics import recall

        found = recall(label_bag_scores(store, split), store.caption_image_rows(split))
        rows.append(
            {"name": "Detected labels only", "metrics": dict(found), "intervals": {},
             "kind": "baseline"}
        )  # fmt: skip
    rows.append({"name": "Chance", "metrics": first["chance"], "intervals": {}, "kind": "baseline"})
    return {"rows": rows, "best": best, "images": first["images"], "captions": first["captions"]}


def _graphs(store: Store, split: str, thumbnails: Thumbnails, count: int) -> list[dict[str, Any]]:
    """Return some pictures with their graphs: drawing, relations in words, captions."""
    from features.drawing.scene_graph import strongest

    if not store.has("labels") or not split:
        return []
    images = store.images[store.images["split"] == split]
    shown = []
    for number, at in enumerate(_some(len(images), count)):
        image = images.iloc[at]
        graph = store.graph(str(image["id"]))
        chosen = strongest(graph, max_objects=10, max_relations=6)
        captions = store.captions[store.captions["image_row"] == image["row"]]
        shown.append(
            {
                "id": str(image["id"]),
                "size": graph.size,
                "picture": thumbnails.data(str(image["file"]), 640),
                "overlay": overlay(graph, chosen, f"tip{number}"),
                "objects": len(graph.labels),
                "relations": len(graph.relations),
                "edges": [
                    (graph.labels[s], predicate, graph.labels[o])
                    for s, predicate, o in (graph.relations[row] for row in chosen.relations)
                ],
                "captions": captions["text"].tolist()[:2],
            }
        )
    return shown


def _captions(store: Store, split: str, count: int) -> list[dict[str, Any]]:
    """Return some parsed captions of middling length that have triplets."""
    if not (store.has("form") and store.has("relation_predicate") and split):
        return []
    rows = store.caption_rows(split)
    triplets = np.diff(store.offsets("relation_offsets"))[rows]
    length = np.diff(store.offsets("token_offsets"))[rows]
    good = np.flatnonzero((length >= 8) & (length <= 18) & (triplets >= 2))
    good = good if len(good) else np.arange(len(rows))
    ids = store.captions[store.captions["split"] == split]["id"].tolist()
    picks = [int(good[at]) for at in _some(len(good), count)]
    graphs = [store.text(ids[at]) for at in picks]
    return [{"graph": graph, "arcs": arcs(graph)} for graph in graphs if graph.tokens]


def _some(total: int, count: int) -> list[int]:
    """Return up to ``count`` positions of ``total``, drawn once and for all, ascending."""
    order = np.random.default_rng(0).permutation(total)[:count]
    return sorted(int(at) for at in order)


def _size(count: float) -> str:
    """Return bytes as people read them.

    >>> _size(512), _size(13_600_000)
    ('512 B', '13.6 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    """Return seconds as people read them.

    >>> _duration(8.24), _duration(130), _duration(7300)
    ('8.2 s', '2 min 10 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m models.report",
        description="Write one self-contained HTML page about a store and its runs.",
    )
    parser.add_argument("store", type=Path, help="store folder or manifest")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--images-dir", type=Path, help="folder of the pictures")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="default: report.html"
    )
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--examples", type=int, default=6, help="examples of each sort; default: 6")
    options = parser.parse_intermixed_args(arguments)
    path = write_report(
        options.out,
        options.store,
        options.runs,
        images_dir=options.images_dir,
        split=options.split,
        examples=options.examples,
    )
    print(path.resolve())  # noqa: T201  (the command's result)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
