"""Store manifests: one variant of each group, bound into a store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from features.errors import DamagedError, FormatError, MismatchError, MissingInput, UsageError
from features.format.files import folder_lock, read_sealed, write_sealed
from features.format.group import GroupManifest, read_group
from features.format.keys import KEY_DIGITS, hash_json
from features.format.schema import GROUPS

_PLAIN = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*")


def bind_store(
    store_dir: Path,
    dataset: str,
    groups: Mapping[str, Path],
    summary: Mapping[str, object],
) -> Path:
    """Bind one variant of each group into a store and make it the latest.

    Args:
        store_dir: folder of the store, the parent of every group's folder.
        dataset: name of the data set, the first part of the manifest's file name.
        groups: name -> folder. ``index`` is required; a second variant of a group is named
            ``group@variant``, for example ``regions@clip``.
        summary: counts and times of the build, for information; not part of the hash.

    Returns:
        Path of the store manifest.

    Raises:
        MismatchError: a group follows another image index.
        UsageError: a name that cannot be used, or no index.
    """
    if "index" not in groups:
        raise UsageError("a store needs the group 'index', whose rows the other groups follow.")
    if not _PLAIN.fullmatch(dataset):
        raise UsageError(f"data set name {dataset!r}: use letters, digits, '.', '_' and '-'.")
    for name, folder in groups.items():
        if folder.resolve().parent != store_dir.resolve():
            raise UsageError(f"group {name!r}: {folder} is not in the store {store_dir}.")
    with folder_lock(store_dir):  # gc must not delete a group before the manifest is written
        manifests = {name: read_group(folder) for name, folder in groups.items()}
        check_binding(manifests)
        entries = {
            name: {"folder": m.folder.name, "key": m.key, "hash": m.hash, "shards": len(m.rows)}
            for name, m in sorted(manifests.items())
        }
        keys = {name: m.key for name, m in manifests.items()}
        hashes = sorted([name, m.hash] for name, m in manifests.items())
        key = hash_json({"dataset": dataset, "groups": keys})
        path = store_dir / f"{dataset}-{key[:KEY_DIGITS]}.json"
        document = {
            "kind": "store",
            "dataset": dataset,
            "key": key,
            "hash": hash_json(hashes),
            "images": sum(manifests["index"].rows),
            "index": manifests["index"].image_index,
            "groups": entries,
        }
        # an identical manifest is not written again: the folder may be read-only
        if not _says(path, document):
            write_sealed(path, {**document, "summary": dict(summary)})
        latest = {"kind": "latest", "manifest": path.name}
        if not _says(store_dir / "latest.json", latest):
            write_sealed(store_dir / "latest.json", latest)
    return path


def _says(path: Path, document: Mapping[str, object]) -> bool:
    """Return True when a sealed file has these items already; it may have more."""
    try:
        found = read_sealed(path, str(document["kind"]))
    except (FormatError, DamagedError):
        return False
    return document.items() <= found.items()


def check_binding(manifests: Mapping[str, GroupManifest]) -> None:
    """Check that groups follow one image index and have equally long shared axes.

    Raises: MismatchError: they do not, so joining them would pair rows of different images.
    """
    first = manifests["index"]
    identity = first.image_index
    lengths = {name: manifest.axis_lengths() for name, manifest in manifests.items()}
    for name, manifest in manifests.items():
        if name.partition("@")[0] != manifest.group:
            raise MismatchError(f"{manifest.path}: holds {manifest.group!r}, bound as {name!r}.")
        if manifest.rows != first.rows or manifest.index not in ("", identity):
            raise MismatchError(
                f"{manifest.path}: built for another image index than {first.path}; joining them "
                "would pair rows of different images. Build the group for this index."
            )
        partners = {"caption": "index"}
        if manifest.group == "text":
            own = name.replace("text", "tokens", 1)
            partners["token"] = own if own in manifests else "tokens"
        for axis, partner in partners.items():
            if axis not in lengths[name] or partner not in lengths:
                continue
            if not np.array_equal(lengths[name][axis], lengths[partner][axis]):
                raise MismatchError(
                    f"{manifest.path}: {name!r} and {partner!r} differ in the number of {axis} "
                    "rows; they were made from different captions or parses."
                )


def store_manifest_path(path: Path) -> Path:
    """Return the path of a store manifest, given that path or a store's folder.

    For a folder, this is the manifest named in its ``latest.json``.

    Raises:
        FormatError: the folder is not a store.
        MissingInput: the path does not exist.
    """
    if path.is_dir():
        latest = path / "latest.json"
        if not latest.exists():
            raise FormatError(f"{path}: not a store (no latest.json). Build one first.")
        name = read_sealed(latest, "latest").get("manifest")
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise FormatError(f"{latest}: does not name a manifest in this folder.")
        return path / name
    if not path.exists():
        raise MissingInput(f"{path}: no such store. Check the path, or build the store first.")
    return path


def read_store_manifest(path: Path) -> dict[str, Any]:
    """Read a store manifest and check its structure.

    Raises: FormatError, DamagedError: as ``read_sealed``, or it contradicts itself.
    """
    document = cast("dict[str, Any]", read_sealed(path, "store"))
    try:
        for name in ("dataset", "key", "hash", "index"):
            if not isinstance(document[name], str):
                raise TypeError(f"{name} is not a string")
        groups = document["groups"]
        images = document["images"]
        if "index" not in groups:
            raise ValueError("no image index")
        if not isinstance(images, int) or isinstance(images, bool) or images < 0:
            raise ValueError(f"images is {images!r}")
        if not isinstance(document.setdefault("summary", {}), dict):
            raise TypeError("summary is no object")
        for name, entry in groups.items():
            if name.partition("@")[0] not in GROUPS or not _PLAIN.fullmatch(name):
                raise ValueError(f"unknown group {name!r}")
            if not _PLAIN.fullmatch(entry["folder"]):
                raise ValueError(f"group {name!r} names no folder of this store")
            for item in ("hash", "key"):
                if not isinstance(entry[item], str):
                    raise TypeError(f"{item} of group {name!r} is not a string")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path}: contradicts itself ({error}). Build the store again."
        ) from error
    return document
