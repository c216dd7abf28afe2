"""Describe folders, stores, images and captions, for the commands ``ls`` and ``show``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from features.errors import FormatError, StoreError, UnknownName
from features.format import read_group, read_store_manifest, store_manifest_path
from features.maintenance.verify import group_folders, store_manifests
from features.store import Store


def list_folder(folder: Path) -> dict[str, Any]:
    """Return the stores and groups of a folder, finished or not.

    Raises: FormatError: there are none.
    """
    if not folder.is_dir():
        raise FormatError(f"{folder}: no such folder. Check the path.")
    stores: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    latest = store_manifest_path(folder).name if (folder / "latest.json").exists() else ""
    for path in store_manifests(folder):
        try:
            document = read_store_manifest(path)
        except StoreError as error:
            stores.append({"manifest": path.name, "problem": str(error)})
            continue
        stores.append(
            {
                "manifest": path.name,
                "latest": path.name == latest,
                "dataset": document["dataset"],
                "images": document["images"],
                "hash": document["hash"],
                "groups": {name: entry["folder"] for name, entry in document["groups"].items()},
            }
        )
    for path in group_folders(folder):
        shards = sorted(path.glob("*.h5"))
        entry: dict[str, Any] = {
            "folder": path.name,
            "shards": len(shards),
            "bytes": sum(shard.stat().st_size for shard in shards),
        }
        try:
            entry["images"] = sum(read_group(path).rows)
        except StoreError as error:
            finished = (path / "manifest.json").exists()
            entry["problem"] = str(error) if finished else "not finished"
        groups.append(entry)
    if not stores and not groups:
        raise FormatError(f"{folder}: no store in this folder or below it. Build one first.")
    return {"folder": str(folder), "stores": stores, "groups": groups}


def list_stores(folder: Path) -> list[dict[str, Any]]:
    """Return ``list_folder`` of a store folder, or of every store folder in it.

    Raises: FormatError: there are none.
    """
    try:
        return [list_folder(folder)]
    except FormatError as error:
        listings = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with contextlib.suppress(FormatError):
                listings.append(list_folder(path))
        if not listings:
            raise error from None
        return listings


def describe_store(store: Store) -> dict[str, Any]:
    """Return the contents of a store: splits, groups, parameters, columns, build summary."""
    groups = {}
    for name in sorted(store.manifest["groups"]):
        manifest = store.group(name).manifest
        shapes = {
            part: [int(kept.lengths.sum()), *kept.shape, kept.dtype]
            for part, kept in sorted(manifest.parts.items())
            if "/names/" not in part
        }
        groups[name] = {
            "folder": manifest.folder.name,
            "key": manifest.key,
            "hash": manifest.hash,
            "shards": len(manifest.rows),
            "bytes": sum(manifest.sizes),
            "params": dict(manifest.params),
            "columns": shapes,
        }
    return {
        "manifest": str(store.path),
        "dataset": store.manifest["dataset"],
        "key": store.key,
        "hash": store.hash,
        "images": len(store),
        "captions": len(store.group("index").text("caption_id")),
        "splits": {name: len(rows) for name, rows in sorted(store.splits.items())},
        "skipped": store.skipped,
        "groups": groups,
        "summary": store.manifest.get("summary", {}),
    }


def store_lines(shown: dict[str, Any]) -> list[str]:
    """Return the result of ``describe_store`` as lines."""
    splits = ", ".join(f"{name} {count:,}" for name, count in shown["splits"].items())
    lines = [
        f"{shown['manifest']}",
        f"data set {shown['dataset']}, hash {shown['hash'][:12]}",
        f"{shown['images']:,} images ({splits}; {len(shown['skipped'])} skipped), "
        f"{shown['captions']:,} captions",
    ]
    for name, group in shown["groups"].items():
        size = f"{group['bytes'] / 1e6:,.1f} MB"
        lines += ["", f"{name}  {group['folder']}  {group['shards']} shards, {size}"]
        for part, (rows, *shape, dtype) in group["columns"].items():
            lines.append(f"  {part:32} {dtype:4} {(rows, *shape)}")
    return lines


def describe_item(store: Store, name: str) -> dict[str, Any]:
    """Return the contents of a store for one image or one caption.

    Raises: UnknownName: neither an image nor a caption has this id.
    """
    try:
        store.rows([name])
    except UnknownName as error:
        try:
            return _describe_caption(store, name)
        except UnknownName:
            raise error from None
    captions = store.captions
    own = captions[captions["image"] == name]
    shown: dict[str, Any] = {
        "image": name,
        "captions": [_describe_caption(store, caption) for caption in own["id"]],
    }
    if store.has("labels"):
        graph = store.graph(name)
        shown["size"] = list(graph.size)
        shown["objects"] = [
            {"label": label, "score": round(float(score), 4), "box": [round(x, 1) for x in box]}
            for label, score, box in zip(
                graph.labels, graph.scores.tolist(), graph.boxes.tolist(), strict=True
            )
        ]
        shown["relations"] = [
            [f"{graph.labels[s]} {s}", predicate, f"{graph.labels[o]} {o}"]
            for s, predicate, o in graph.relations
        ]
    return shown


def _describe_caption(store: Store, name: str) -> dict[str, Any]:
    if not store.has("form"):
        row = int(store.rows_of_captions([name])[0])
        return {"caption": name, "text": store.group("index").text("caption")[row]}
    graph = store.text(name)
    return {
        "caption": name,
        "text": graph.caption,
        "tokens": list(graph.tokens),
        "objects": list(graph.objects),
        "attributes": [list(pair) for pair in graph.attributes],
        "triplets": [list(triplet) for triplet in graph.triplets],
    }


def item_lines(shown: dict[str, Any]) -> list[str]:
    """Return the result of ``describe_item`` as lines."""
    lines = []
    if "image" in shown:
        size = " x ".join(map(str, shown.get("size", ())))
        lines.append(f"image {shown['image']}  {size}".rstrip())
        for at, found in enumerate(shown.get("objects", ())):
            lines.append(f"  {at:3} {found['label']} {found['score']:.2f}  {found['box']}")
        lines += [f"  {s} - {p} - {o}" for s, p, o in shown.get("relations", ())]
    for caption in shown.get("captions", [shown]):
        lines.append(f"caption {caption['caption']}  {caption['text']}")
        lines += [f"  {s} - {p} - {o}" for s, p, o in caption.get("triplets", ())]
        lines += [f"  {name} is {value}" for name, value in caption.get("attributes", ())]
    return lines
