"""Write a report: ``python -m models.report STORE [RUN ...] --images-dir DIR --out report.html``.

The page about a store and its runs needs no network and no other file: images are embedded,
figures are inline SVG. Missing images, runs and evaluations are left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from features.commands import Program, next_steps
from features.drawing import Thumbnails
from features.store import Store, open_store
from models.reporting import read_run, retrieval_gallery, sections, training_charts, write_page
from models.training import check_split, store_keys

__all__ = ["app", "report", "write_report"]

COMPARED = 3  # runs whose results the gallery shows side by side

app = Program("python -m models.report", plugins=True)


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
        runs: run folders; curves come from ``metrics.csv``, results and queries from the files
            that ``models.evaluate`` wrote for ``split``.
        images_dir: folder of the images; None: graphs are drawn on an empty background.
        split: of examples and results; if the store lacks it, its largest split.
        examples: number of images, captions and queries to show.

    Returns:
        ``out``.

    Raises:
        MissingDependency: Jinja2 is not installed.
        MissingInput: no such run folder.
        InputError: a results or queries file cannot be read.
        MismatchError: results of another store.
        WriteError: ``out`` cannot be written.
    """
    opened = open_store(store) if isinstance(store, str | Path) else store
    if "[" in split:
        check_split(opened, split)
    elif split not in opened.splits:
        split = max(opened.splits, key=lambda name: len(opened.splits[name]), default="")
    thumbnails = Thumbnails(images_dir)
    found = [read_run(Path(run), split, store_keys(opened)) for run in runs]
    trained = [run for run in found if run["learns"]]
    # a gallery of more runs would be too long to read
    ranked = sorted((run for run in trained if run["queries"] is not None), key=_rsum)[-COMPARED:]
    tables = [(run["name"], run["queries"]) for run in reversed(ranked)]
    identity = sections.identity(opened)
    large, small = sections.counts(opened)
    sure, images = sections.sure_images(opened, split)
    gallery = retrieval_gallery(opened, tables, thumbnails, examples) if tables else None
    return write_page(
        out,
        "page.html.j2",
        title=_title(identity),
        today=f"{datetime.now(UTC):%Y-%m-%d}",
        identity=identity,
        large=large,
        small=small,
        store=opened,
        split=split,
        stages=sections.stages(opened),
        histograms=sections.histograms(opened),
        bars=sections.bars(opened),
        skipped=sections.skipped(opened),
        results=sections.results(opened, split, found),
        runs=found,
        trained=trained,
        charts=training_charts(trained),
        graphs=sections.graphs(opened, split, sure, thumbnails, examples),
        sure=(len(sure), images),
        captions=sections.captions(opened, split, examples),
        gallery=gallery,
        compared=[name for name, _ in tables],
        has_images=images_dir is not None,
    )


def _rsum(run: Mapping[str, Any]) -> float:
    """Return the best rSum of a run."""
    rows = run["results"].get("rows", ())
    return max((float(row["metrics"]["rsum"]) for row in rows), default=0.0)


def _title(identity: Sequence[tuple[str, str]]) -> str:
    """Return the title of the page: the data set, and how and when its store was built."""
    (_, dataset), *rest = identity
    kept = [f"{name} {value}" for name, value in rest if name not in ("relations", "features")]
    return f"{dataset}: {', '.join(kept)} \N{MIDDLE DOT} Scenestore report"


@app.command("report")
def report(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store folder or manifest.")],
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="Run folders.")] = None,
    images_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path(
        "report.html"
    ),
    split: Annotated[str, typer.Option(help="Split of examples and results.")] = "test",
    examples: Annotated[int, typer.Option(help="Examples of each kind.")] = 6,
) -> None:
    """Write one self-contained HTML page about a store and its runs."""
    path = write_report(
        out, store, runs or (), images_dir=images_dir, split=split, examples=examples
    )
    typer.echo(path.resolve())
    if not runs:
        next_steps(["serve", store])
        return
    failed = ["evaluate", *runs, "--store", store, "--split", split, "--failures", 10]
    next_steps(["serve", store], failed)


if __name__ == "__main__":
    app.run()
