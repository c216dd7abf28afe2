"""The commands ``import`` and ``export``: from and to the formats of other projects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from features.commands.program import Program
from features.commands.terminal import next_steps
from features.convert import EXPORT_FORMATS, IMPORT_FORMATS, Format, export_store, import_store
from features.errors import UsageError

app = Program("python -m features")


def _listed(formats: Mapping[str, Format], option: str = "") -> str:
    """Return the formats, with the values of an option, as a table for the end of a help page."""
    width = max(map(len, formats))
    rows = [
        f"  {name:{width}}  {entry.doc}"
        + (f" ({option} {', '.join(entry.options)})" if option and entry.options else "")
        for name, entry in formats.items()
    ]
    return "\n".join(["\b", "Formats:", *rows])  # \b: typer keeps the line breaks


@app.command("import", epilog=_listed(IMPORT_FORMATS, "--extra"))
def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="One of those below.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder to read.")],
    store_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the store.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set [FORMAT].")] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Captions file, several with commas, or a folder of them.",
        ),
    ] = None,
    images_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos, for sizes that SOURCE lacks.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of images for which no file has one.")] = (
        "unsplit"
    ),
    split_by: Annotated[
        str,
        typer.Option(
            metavar="SHARES",
            help="Split images without a split by a hash of their ids: 80/10/10 (train/val/test).",
        ),
    ] = "",
    max_objects: Annotated[int, typer.Option(metavar="K", help="Boxes kept per image.")] = 36,
    max_relations: Annotated[
        int | None, typer.Option(metavar="R", help="Relations kept per image [25].")
    ] = None,
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Of features.")] = "float16",
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="Stop at a broken image, or skip and list it.")
    ] = "fail",
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=PATH",
            help="Further file of the format, for example objects=objects_vocab.txt; repeatable.",
        ),
    ] = None,
) -> None:
    """Make a store from published feature or scene graph files."""
    extras = {}
    for item in extra or ():
        key, sign, path = item.partition("=")
        if not sign or not path:
            raise UsageError(f"--extra {item!r} must be KEY=PATH.")
        extras[key] = path
    report = import_store(
        format_name,
        source,
        store_dir,
        name=name,
        captions=captions,
        images_dir=images_dir,
        split=split,
        split_by=split_by,
        max_objects=max_objects,
        max_relations=max_relations,
        dtype=dtype,
        on_error=on_error,
        extras=extras,
    )
    typer.echo(f"{report.manifest}\n{report.images} images, {report.captions} captions")
    for line in report.notes:
        typer.echo(f"note: {line}")
    for image_id, reason in report.skipped[:10]:
        typer.echo(f"skipped {image_id}: {reason}")
    if len(report.skipped) > 10:
        typer.echo(f"... and {len(report.skipped) - 10} more; store.skipped has all")
    steps = [["add-text", "--store-dir", store_dir]] if report.captions else []  # parses them
    next_steps(*steps, ["show", store_dir])


@app.command("export", epilog=_listed(EXPORT_FORMATS))
def export(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="One of those below.")],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder or store manifest.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File or folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    splits: Annotated[
        list[str] | None, typer.Option(metavar="SPLIT...", help="Splits to write [all].")
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(metavar="N", help="scan-precomp: least count of a vocabulary word [4]."),
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="scan-precomp: an existing *_vocab.json.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="faiss: .npy (n, D).")
    ] = None,
    of: Annotated[
        Literal["images", "captions"] | None, typer.Option(help="faiss: what the rows are.")
    ] = None,
) -> None:
    """Write a store in another format."""
    given = {"min_count": min_count, "vocab": vocab, "embeddings": embeddings, "of": of}
    options = {key: value for key, value in given.items() if value is not None}
    notes = export_store(format_name, store, out, splits=splits, overwrite=overwrite, **options)
    typer.echo(out)
    for line in notes:
        typer.echo(f"note: {line}")
    next_steps(["show", store])
