"""Write a report: ``python -m models.report STORE [RUN ...] --images-dir DIR --out report.html``.

The page about a store and its runs needs no network and no other file: images are embedded,
figures are inline SVG. Missing images, runs and evaluations are left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from features.commands import Program
from features.drawing import Thumbnails
from features.errors import MissingDependency
from features.format import replacing
from features.store import Store, open_store
from models.reporting import read_run, retrieval_gallery, sections
from models.training import check_split, store_keys

__all__ = ["app", "report", "write_report"]

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
    try:
        import jinja2
    except ImportError as error:
        command = "pip install 'scenestore[viz]'"
        raise MissingDependency.of("jinja2", "the report", command) from error
    opened = open_store(store) if isinstance(store, str | Path) else store
    if "[" in split:
        check_split(opened, split)
    elif split not in opened.splits:
        split = max(opened.splits, key=lambda name: len(opened.splits[name]), default="")
    thumbnails = Thumbnails(images_dir)
    found = [read_run(Path(run), split, store_keys(opened)) for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(sections.__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.j2").render(
        store=opened,
        split=split,
        facts=sections.facts(opened),
        stages=sections.stages(opened),
        bars=sections.bars(opened),
        results=sections.results(opened, split, found),
        runs=found,
        trained=[run for run in found if run["learns"]],
        graphs=sections.graphs(opened, split, thumbnails, examples),
        captions=sections.captions(opened, split, examples),
        galleries=[
            {"name": run["name"], **retrieval_gallery(opened, run["queries"], thumbnails, examples)}
            for run in found
            if run["learns"] and run["queries"] is not None
        ],
        has_images=images_dir is not None,
    )
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return out


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


if __name__ == "__main__":
    app.run()
