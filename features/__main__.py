"""The store on the command line: ``python -m features ls | show | verify | draw | ...``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.commands.program import exit_cleanly
from features.errors import FormatError, StoreError

__all__ = ["cli", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m features", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_reading(commands)
    _add_upkeep(commands)
    from features import convert

    importing = commands.add_parser("import", help="make a store from published feature files")
    convert.add_import_arguments(importing)
    importing.set_defaults(run=convert.run_import)
    exporting = commands.add_parser("export", help="write a store in another format")
    convert.add_export_arguments(exporting)
    exporting.set_defaults(run=convert.run_export)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


def _add_reading(commands: Any) -> None:
    ls = commands.add_parser("ls", help="list the stores and groups of a folder")
    ls.add_argument("store", type=Path, help="folder of the store")
    ls.add_argument("--json", action="store_true", help="one JSON document")
    ls.set_defaults(run=_ls)
    show = commands.add_parser("show", help="show what a store, an image or a caption holds")
    show.add_argument("store", type=Path, help="folder or store manifest")
    show.add_argument("id", nargs="?", help="id of an image or a caption")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.set_defaults(run=_show)
    draw = commands.add_parser("draw", help="draw the scene graph of an image")
    draw.add_argument("store", type=Path, help="folder or store manifest")
    draw.add_argument("id", help="id of the image")
    draw.add_argument("--out", type=Path, required=True, help="picture to write")
    draw.add_argument("--images-dir", type=Path, help="folder of the pictures")
    draw.set_defaults(run=_draw)


def _add_upkeep(commands: Any) -> None:
    verify = commands.add_parser("verify", help="check every byte against what was written")
    verify.add_argument("store", type=Path, help="folder or store manifest")
    verify.add_argument(
        "--repair", action="store_true", help="delete what is damaged; the next build rewrites it"
    )
    verify.set_defaults(run=_verify)
    gc = commands.add_parser("gc", help="delete what no manifest and no training run needs")
    gc.add_argument("store", type=Path, help="folder of the store")
    gc.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of training runs")
    gc.add_argument(
        "--only-latest", action="store_true", help="older store manifests may go as well"
    )
    gc.add_argument(
        "--idle-hours",
        type=float,
        default=24.0,
        help="groups that were never bound stay so long after they were written to (24)",
    )
    gc.add_argument("--yes", action="store_true", help="delete; without it, only say what would go")
    gc.set_defaults(run=_gc)


def _ls(options: argparse.Namespace) -> int:
    from features.maintenance.summary import list_folder, listing_lines

    listing = list_folder(options.store)
    if options.json:
        print(json.dumps(listing, indent=2))
    else:
        print("\n".join(listing_lines(listing)))
    return 0


def _show(options: argparse.Namespace) -> int:
    from features.maintenance.summary import describe_item, describe_store, item_lines, store_lines
    from features.store import open_store

    store = open_store(options.store)
    shown = describe_store(store) if options.id is None else describe_item(store, options.id)
    if options.json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        print("\n".join(store_lines(shown) if options.id is None else item_lines(shown)))
    return 0


def _draw(options: argparse.Namespace) -> int:
    from features.drawing.scene_graph import draw_image
    from features.store import open_store

    given = {} if options.images_dir is None else {"images_dir": options.images_dir}
    draw_image(open_store(options.store), options.id, options.out, **given)
    print(options.out)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from features.maintenance.verify import verify_store

    findings = verify_store(options.store, repair=options.repair)
    for finding in findings:
        print(finding)
    if not findings:
        print(f"{options.store}: every byte is as it was written")
        return 0
    damaged = sum(finding.damaged for finding in findings)
    left = len(findings) - damaged
    what = f"{options.store}: {left} findings that deleting a file would not cure"
    if options.repair:
        if damaged:
            print(f"{damaged} findings; what is damaged is deleted. Build the store again.")
        if left:
            raise StoreError(f"{what}; what they name stays. Cure what they say, or build again.")
        return 0
    if not damaged:
        raise StoreError(f"{what}. Cure what they say, or build again.")
    raise StoreError(
        f"{options.store}: {len(findings)} findings. Repair it: python -m features verify "
        f"--repair {options.store}, then build again."
    )


def _gc(options: argparse.Namespace) -> int:
    from features.maintenance.gc import collect, find_garbage

    if not options.store.is_dir():
        raise FormatError(f"{options.store}: not a folder of a store.")
    garbage = find_garbage(
        options.store,
        runs=options.runs,
        only_latest=options.only_latest,
        idle_hours=options.idle_hours,
    )
    going = [item for item in garbage if not item.busy]
    for item in going:
        print(f"{item.path}  {item.nbytes:,} bytes: {item.why}")
    for item in garbage:
        if item.busy:
            print(f"{item.path}  kept: a build may be at work on it (see --idle-hours)")
    if not options.yes:
        total = sum(item.nbytes for item in going)
        print(f"{len(going)} items, {total:,} bytes would go. Delete them: add --yes")
        return 0
    gone, swept = collect(options.store, going)
    total = sum(item.nbytes for item in gone)
    print(f"{len(gone)} items, {total:,} bytes and {len(swept)} partial files are deleted.")
    return 0


def cli() -> None:
    """Run the command line and leave the process."""
    exit_cleanly(main)


if __name__ == "__main__":
    cli()
