"""Commands that read a store or maintain it: ``ls``, ``show``, ``verify``, ``draw``, ``gc``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from features.commands.program import Program
from features.errors import FormatError, StoreError
from features.maintenance import (
    IDLE_HOURS,
    collect,
    describe_item,
    describe_store,
    find_garbage,
    item_lines,
    list_stores,
    listing_lines,
    store_lines,
    verify_store,
)
from features.reading import push_store
from features.store import open_store

app = Program("python -m features")

Folder = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.")]
Stored = Annotated[Path, typer.Argument(metavar="STORE", help="Folder or store manifest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("ls")
def ls(
    store: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a store, or of several.")
    ],
    as_json: AsJson = False,
) -> None:
    """List the stores and groups of a folder, or of each store folder in it."""
    listings = list_stores(store)
    if as_json:
        alone = listings[0]["folder"] == str(store)
        typer.echo(json.dumps(listings[0] if alone else listings, indent=2))
        return
    for listing in listings:
        if listing["folder"] != str(store):
            typer.echo(f"{listing['folder']}:")
        typer.echo("\n".join(listing_lines(listing)))


@app.command("show")
def show(
    store: Stored,
    item: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id of an image or a caption.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the contents of a store, of an image or of a caption."""
    opened = open_store(store)
    shown = describe_store(opened) if item is None else describe_item(opened, item)
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(store_lines(shown) if item is None else item_lines(shown)))


@app.command("verify")
def verify(
    store: Stored,
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete damaged files; the next build rewrites them.")
    ] = False,
) -> None:
    """Check every byte of a store against its hashes."""
    findings = verify_store(store, repair=repair)
    for finding in findings:
        typer.echo(finding)
    if not findings:
        typer.echo(f"{store}: every byte is as it was written")
        return
    damaged = sum(finding.damaged for finding in findings)
    if damaged and not repair:
        raise StoreError(
            f"{store}: {len(findings)} findings. Repair it: python -m features verify --repair "
            f"{store}, then build again."
        )
    if damaged:
        typer.echo(f"{damaged} findings; the damaged files are deleted. Build the store again.")
    if left := len(findings) - damaged:
        raise StoreError(
            f"{store}: {left} findings that deleting a file does not fix; those files were kept. "
            "Fix what the findings name, or build again."
        )


@app.command("push")
def push(
    store: Stored,
    url: Annotated[str, typer.Argument(metavar="URL", help="Such as s3://BUCKET/NAME.")],
) -> None:
    """Upload a store to object storage or another file system, checked by its hashes.

    open_store(URL) and --data.store URL read it from there.
    """
    files, size = push_store(store, url, told=lambda name, size: typer.echo(f"{size:>14,}  {name}"))
    typer.echo(f"{files} files, {size:,} bytes uploaded: {url}")


@app.command("draw")
def draw(
    store: Stored,
    image: Annotated[str, typer.Argument(metavar="ID", help="Id of the image.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Image file to write.")],
    images_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the photos.")
    ] = None,
    relations: Annotated[
        int, typer.Option(min=0, metavar="N", help="Most relations to draw; repeated ones once.")
    ] = 8,
    objects: Annotated[int, typer.Option(min=0, metavar="N", help="Most objects to draw.")] = 12,
) -> None:
    """Draw the scene graph of an image."""
    from features.drawing import draw_image  # loads matplotlib

    most = max(objects, 2 * relations if relations > 8 else 0)
    draw_image(open_store(store), image, out, images_dir, max_relations=relations, max_objects=most)
    typer.echo(out)


@app.command("gc")
def gc(
    store: Folder,
    runs: Annotated[
        list[Path] | None, typer.Option(metavar="[DIR]...", help="Folders of training runs.")
    ] = None,
    only_latest: Annotated[
        bool, typer.Option("--only-latest", help="Also delete all store manifests but the latest.")
    ] = False,
    idle_hours: Annotated[
        float,
        typer.Option(
            metavar="HOURS",
            help="How long a group that no manifest names is kept after its last write.",
        ),
    ] = IDLE_HOURS,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; without it, only list what would be deleted.")
    ] = False,
) -> None:
    """Delete what no store manifest and no training run references."""
    if not store.is_dir():
        raise FormatError(f"{store}: not a folder of a store.")
    garbage = find_garbage(store, runs=runs or (), only_latest=only_latest, idle_hours=idle_hours)
    going = [item for item in garbage if not item.busy]
    for item in going:
        typer.echo(f"{item.path}  {item.nbytes:,} bytes: {item.why}")
    for item in garbage:
        if item.busy:
            typer.echo(f"{item.path}  kept: a build may be writing to it (see --idle-hours)")
    if not yes:
        total = sum(item.nbytes for item in going)
        typer.echo(f"{len(going)} items, {total:,} bytes would be deleted. Delete them: add --yes")
        return
    gone, swept = collect(store, going)
    total = sum(item.nbytes for item in gone)
    typer.echo(f"{len(gone)} items, {total:,} bytes and {len(swept)} partial files were deleted.")
