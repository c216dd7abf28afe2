"""Find and delete groups and manifests that no store manifest or training run refers to."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import DamagedError, MissingInput, NewerFormatError, StoreError
from features.format import (
    KEY_DIGITS,
    folder_lock,
    read_store_manifest,
    store_manifest_path,
    sweep,
    time_of,
    unreadable,
    write_errors,
    writer_alive,
)
from features.maintenance.verify import group_folders, store_folder, store_manifests

IDLE_HOURS = 24.0
_RUN_FILES = (".json", ".yaml", ".yml", ".toml")
_LARGEST_RUN_FILE = 16 << 20
_UNBOUND = "not referenced by any retained manifest"


@dataclass(frozen=True, slots=True)
class Garbage:
    """A group folder or store manifest that nothing refers to.

    Attributes:
        path: the folder or file.   nbytes: its size.   why: the reason it is garbage.
        busy: True when it was never bound and was written to recently, so that a build may still
            be working on it. It is not deleted.
    """

    path: Path
    nbytes: int
    why: str
    busy: bool = False


def find_garbage(
    path: Path,
    *,
    runs: Iterable[Path] = (),
    only_latest: bool = False,
    idle_hours: float = IDLE_HOURS,
) -> list[Garbage]:
    """Return the garbage of a store without deleting anything.

    A group is retained when a retained store manifest binds it or a training run mentions its key.
    A store manifest is retained unless ``only_latest`` is set, it is not the latest of its data
    set, and no training run mentions it.

    Args:
        path: folder of the store.
        runs: folders of training runs, whose JSON, YAML and TOML files and weight metadata are
            searched. A folder ``runs`` in the store or beside it is always searched.
        only_latest: include older store manifests.
        idle_hours: a group that was never bound counts as busy for this long after a write.

    Raises:
        MissingInput: a folder of runs does not exist.
        DamagedError: a store manifest cannot be read, so its references are unknown.
        StoreError: a file of a run cannot be read, so its references are unknown.
    """
    folder = store_folder(path)
    documents = _read_manifests(folder)
    newest = _newest(folder, documents)
    mentioned = "\n".join(_run_texts(folder, runs))

    def is_mentioned(*names: str) -> bool:
        return any(name in mentioned for name in names)

    garbage = []
    kept: set[str] = set()
    freed: set[str] = set()
    for manifest, document in documents.items():
        folders = {str(entry["folder"]) for entry in document["groups"].values()}
        # runs record the first digits of the hash; the file name has those of the key
        names = (manifest.stem, document["key"][:KEY_DIGITS], document["hash"][:KEY_DIGITS])
        if not only_latest or manifest in newest or is_mentioned(*names):
            kept |= folders
        else:
            freed |= folders
            why = "not the latest, and not referenced by any training run"
            garbage.append(Garbage(manifest, manifest.stat().st_size, why))
    now = time_of(folder)
    for group in group_folders(folder):
        if group.name in kept or is_mentioned(group.name.rpartition("-")[2]):
            continue
        size = sum(file.stat().st_size for file in group.rglob("*") if file.is_file())
        hours = max(0.0, now - group.stat().st_mtime) / 3600
        busy = _written(group) or (group.name not in freed and hours < idle_hours)
        garbage.append(Garbage(group, size, _UNBOUND, busy))
    return garbage


def collect(path: Path, garbage: Iterable[Garbage]) -> tuple[list[Garbage], list[Path]]:
    """Delete garbage and partial files of dead processes; return both.

    Busy items, and items that have been bound since ``find_garbage``, are kept. Manifests are
    deleted before the groups they bind, so that an interruption leaves a valid store.

    Raises: WriteError: a file cannot be deleted.
    """
    folder = store_folder(path)
    gone = []
    with folder_lock(folder):  # bind_store holds it too
        documents = _read_manifests(folder)
        newest = _newest(folder, documents)
        going = {item.path for item in garbage}
        bound = {
            folder / str(entry["folder"])
            for manifest, document in documents.items()
            if manifest not in going or manifest in newest
            for entry in document["groups"].values()
        }
        for item in sorted(garbage, key=lambda item: item.path.is_dir()):
            if item.busy or item.path in bound or item.path in newest or _written(item.path):
                continue
            with write_errors(item.path):
                if item.path.is_dir():
                    (item.path / "manifest.json").unlink(missing_ok=True)
                    shutil.rmtree(item.path)
                else:
                    item.path.unlink(missing_ok=True)
            gone.append(item)
    return gone, [swept for place in (folder, *group_folders(folder)) for swept in sweep(place)]


def _written(group: Path) -> bool:
    """Return True if a process of this machine is writing a file of a group now."""
    return any(writer_alive(path) for path in group.glob("*.partial"))


def _read_manifests(folder: Path) -> dict[Path, dict[str, Any]]:
    documents = {}
    for manifest in store_manifests(folder):
        try:
            documents[manifest] = read_store_manifest(manifest)
        except NewerFormatError as error:
            raise NewerFormatError(f"{error} Nothing is deleted.") from error
        except StoreError as error:
            raise DamagedError(
                f"{manifest}: cannot be read, so nothing is deleted. Run: python -m features "
                f"verify --repair {folder}"
            ) from error
    return documents


def _newest(folder: Path, documents: Mapping[Path, Mapping[str, Any]]) -> set[Path]:
    """Return the latest manifest, and the newest one of every other data set."""
    latest = store_manifest_path(folder)
    if latest not in documents:
        raise DamagedError(
            f"{folder / 'latest.json'}: refers to {latest.name}, which does not exist. Nothing "
            "is deleted. Build that store again."
        )
    youngest = sorted(documents, key=lambda path: (path == latest, path.stat().st_mtime_ns))
    return set({documents[manifest]["dataset"]: manifest for manifest in youngest}.values())


def _run_texts(folder: Path, runs: Iterable[Path]) -> Iterator[str]:
    """Yield the texts of run files that may refer to a store."""
    given = list(runs)
    for place in given:
        if not place.is_dir():
            raise MissingInput(f"{place}: no such folder of training runs. Check --runs.")
    for place in (*given, folder / "runs", folder.resolve().parent / "runs"):
        for file in _files(place) if place.is_dir() else ():
            try:
                if file.suffix in _RUN_FILES and file.stat().st_size <= _LARGEST_RUN_FILE:
                    yield file.read_text(encoding="utf-8", errors="replace")
                elif file.suffix == ".safetensors":
                    yield _description(file)
            except OSError as error:
                raise unreadable(file, error, "Nothing is deleted.") from error


def _files(place: Path) -> Iterator[Path]:
    """Yield all files below a folder, following links; each folder is visited once."""
    seen = set()

    def stop(error: OSError) -> None:
        raise unreadable(Path(error.filename), error, "Nothing is deleted.") from error

    for root, folders, names in os.walk(place, followlinks=True, onerror=stop):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for name in names if (path := Path(root, name)).is_file())


def _description(weights: Path) -> str:
    """Return the metadata of a safetensors file as JSON, "" for any other file."""
    with weights.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        head = file.read(size) if size <= _LARGEST_RUN_FILE else b""
    try:
        return json.dumps(json.loads(head).get("__metadata__"))
    except (ValueError, AttributeError, RecursionError):
        return ""
