"""Commands that read a store or maintain it: ``ls``, ``show``, ``verify``, ``draw``, ``gc``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from features.commands.program import Program
from features.commands.terminal import Column, fitted, next_steps, print_json, print_table
from features.errors import FormatError, StoreError
from features.maintenance import (
    IDLE_HOURS,
    collect,
    describe_item,
    describe_store,
    find_garbage,
    item_lines,
    list_stores,
    store_lines,
    verify_store,
)
from features.reading import push_store
from features.store import Store, open_store

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
        print_json(listings[0] if alone else listings)
        return
    for listing in listings:
        if listing["folder"] != str(store):
            typer.echo(f"{listing['folder']}:")
        _print_listing(listing)
    if any(listing["stores"] for listing in listings):
        folder = next(listing["folder"] for listing in listings if listing["stores"])
        next_steps(["show", folder], ["verify", folder])


def _print_listing(listing: dict[str, Any]) -> None:
    """Print the result of ``list_folder`` as tables."""
    stores = [
        (
            "store",
            one["manifest"],
            f"{one['images']:,}" if "images" in one else "",
            one.get("hash", "")[:12],
            one.get("problem") or ("latest" if one["latest"] else ""),
        )
        for one in listing["stores"]
    ]
    if stores:
        heads = [
            Column("", rank=2),
            Column("manifest", cut="start"),
            Column("images", right=True),
            Column("hash", rank=1),
            Column("", cut="end"),
        ]
        print_table(heads, stores)
    groups = [
        (
            "group",
            one["folder"],
            f"{one['images']:,}" if "images" in one else "",
            f"{one['shards']:,}",
            f"{one['bytes'] / 1e6:,.1f} MB",
            one.get("problem", ""),
        )
        for one in listing["groups"]
    ]
    if groups:
        heads = [
            Column("", rank=2),
            Column("folder", cut="start"),
            Column("images", right=True),
            Column("shards", right=True, rank=1),
            Column("size", right=True),
            Column("", cut="end"),
        ]
        print_table(heads, groups)


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
        print_json(shown)
        return
    for line in store_lines(shown) if item is None else item_lines(shown):
        typer.echo(fitted(line))
    if item is not None:
        found = str(shown.get("image") or opened.captions.set_index("id").loc[item, "image"])
        next_steps(["draw", store, found, "--out", f"{Path(found).stem}.png"])
        return
    image = next(iter(opened.images["id"]), None)
    next_steps(
        *([["show", store, image]] if image is not None else []),
        *([["find", store, query]] if (query := _example(opened)) else []),
        ["report", store],
        ["serve", store],
    )


def _example(store: Store) -> str:
    """Return a query for ``find`` that has matches, "" if there is none."""
    for column in ("object_lemma", "labels"):
        if store.has(column):
            names = store.coded(column)
            codes = names.codes.reshape(-1)[:5000]
            words = [names.names[int(code)] for code in codes]
            counted = Counter(word for word in words if word.replace(" ", "").isalpha())
            if counted:
                return counted.most_common(1)[0][0]
    return ""


@app.command("verify")
def verify(
    store: Stored,
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete damaged files; the next build rewrites them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a store against its hashes."""
    findings = verify_store(store, repair=repair)
    if as_json:
        print_json([_plain(finding) for finding in findings])
    for finding in findings if not as_json else ():
        typer.echo(finding)
    if not findings:
        if not as_json:
            typer.echo(f"{store}: every byte is as it was written")
            next_steps(["show", store], ["gc", store if store.is_dir() else store.parent])
        return
    damaged = sum(finding.damaged for finding in findings)
    if damaged and not repair:
        raise StoreError(
            f"{store}: {len(findings)} findings. Repair it: python -m features verify --repair "
            f"{store}, then build again."
        )
    if damaged and not as_json:
        typer.echo(f"{damaged} findings; the damaged files are deleted. Build the store again.")
    if left := len(findings) - damaged:
        raise StoreError(
            f"{store}: {left} findings that deleting a file does not fix; those files were kept. "
            "Fix what the findings name, or build again."
        )


def _plain(record: Any) -> dict[str, Any]:
    """Return a record as JSON values."""
    values = dataclasses.asdict(record)
    return {name: str(one) if isinstance(one, Path) else one for name, one in values.items()}


@app.command("push")
def push(
    store: Stored,
    url: Annotated[str, typer.Argument(metavar="URL", help="Such as s3://BUCKET/NAME.")],
    again: Annotated[
        bool, typer.Option("--again", help="Also upload files that are there: one is damaged.")
    ] = False,
) -> None:
    """Upload a store to object storage or another file system, checked by its hashes.

    open_store(URL) and --data.store URL read it from there.
    """

    def told(name: str, size: int) -> None:
        typer.echo(f"{size:>14,}  {name}")

    files, size = push_store(store, url, again=again, told=told)
    typer.echo(f"{files} files, {size:,} bytes uploaded: {url}")
    next_steps(["show", url])


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
    next_steps(["show", store, image])


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
    as_json: AsJson = False,
) -> None:
    """Delete what no store manifest and no training run references."""
    if not store.is_dir():
        raise FormatError(f"{store}: not a folder of a store.")
    garbage = find_garbage(store, runs=runs or (), only_latest=only_latest, idle_hours=idle_hours)
    going = [item for item in garbage if not item.busy]
    if as_json:
        gone = collect(store, going)[0] if yes else []
        deleted = {item.path for item in gone}
        print_json([{**_plain(item), "deleted": item.path in deleted} for item in garbage])
        return
    for item in going:
        typer.echo(f"{item.path}  {item.nbytes:,} bytes: {item.why}")
    for item in garbage:
        if item.busy:
            typer.echo(f"{item.path}  kept: a build may be writing to it (see --idle-hours)")
    if not yes:
        total = sum(item.nbytes for item in going)
        typer.echo(f"{len(going)} items, {total:,} bytes would be deleted. Delete them: add --yes")
        if going:
            kept = [word for folder in runs or () for word in ("--runs", folder)]
            latest = ["--only-latest"] if only_latest else []
            idle = ["--idle-hours", f"{idle_hours:g}"] if idle_hours != IDLE_HOURS else []
            next_steps(["gc", store, *kept, *latest, *idle, "--yes"])
        else:
            next_steps(["ls", store])
        return
    gone, swept = collect(store, going)
    total = sum(item.nbytes for item in gone)
    typer.echo(f"{len(gone)} items, {total:,} bytes and {len(swept)} partial files were deleted.")
    next_steps(["ls", store])
