"""Find and delete what no store manifest and no training run needs any more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from features.atomic import sweep, write_errors
from features.errors import DamagedError, MissingInput, StoreError
from features.manifest import read_store_manifest, store_manifest_path
from features.verify import group_folders, store_folder, store_manifests

__all__ = ["Garbage", "collect", "find_garbage"]

_RUN_FILES = (".json", ".yaml", ".yml", ".toml")
_LARGEST_RUN_FILE = 16 << 20


@dataclass(frozen=True, slots=True)
class Garbage:
    """What can go: group folders and store manifests, with their bytes and why."""

    path: Path
    nbytes: int
    why: str


def find_garbage(
    path: Path, *, runs: Iterable[Path] = (), only_latest: bool = False
) -> list[Garbage]:
    """Return what nothing needs; deletes nothing.

    A group stays when a store manifest that stays binds it. A store manifest stays unless
    ``only_latest`` is set, it is not the latest, and no training run mentions its key or its hash.

    Args:
        path: folder of the store.
        runs: folders of training runs; their JSON, YAML and TOML files are searched. The folder
            ``runs`` in the store and beside it is searched always.
        only_latest: older store manifests may go too.

    Raises:
        MissingInput: a folder of runs that is not there.
        DamagedError: a store manifest cannot be read, so nobody knows what it needs.
    """
    folder = store_folder(path)
    kept: set[str] = set()
    garbage = []
    latest = store_manifest_path(folder)
    mentioned = "\n".join(_run_texts(folder, runs))
    for manifest in store_manifests(folder):
        try:
            document = read_store_manifest(manifest)
        except StoreError as error:
            raise DamagedError(
                f"{manifest}: cannot be read, so nothing is deleted. Run: python -m features "
                f"verify --repair {folder}"
            ) from error
        names = (str(document["key"]), str(document["hash"]), manifest.name)
        needed = manifest == latest or not only_latest or any(name in mentioned for name in names)
        if needed:
            kept |= {str(entry["folder"]) for entry in document["groups"].values()}
        else:
            why = "not the latest, and no training run mentions it"
            garbage.append(Garbage(manifest, manifest.stat().st_size, why))
    for group in group_folders(folder):
        if group.name not in kept:
            size = sum(file.stat().st_size for file in group.rglob("*") if file.is_file())
            garbage.append(Garbage(group, size, "no store manifest that stays binds it"))
    return garbage


def collect(path: Path, garbage: Iterable[Garbage]) -> list[Path]:
    """Delete garbage, and partial files of dead writers; return those partial files.

    Manifests go before the groups that they bind, so that what is left is always a store.

    Raises: WriteError: a file may not be deleted.
    """
    folder = store_folder(path)
    for item in sorted(garbage, key=lambda item: item.path.is_dir()):
        with write_errors(item.path):
            if item.path.is_dir():
                (item.path / "manifest.json").unlink(missing_ok=True)
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)
    return [swept for place in (folder, *group_folders(folder)) for swept in sweep(place)]


def _run_texts(folder: Path, runs: Iterable[Path]) -> Iterator[str]:
    """Yield the small structured files of all runs."""
    given = list(runs)
    for place in given:
        if not place.is_dir():
            raise MissingInput(f"{place}: no such folder of training runs. Check --runs.")
    for place in (*given, folder / "runs", folder.resolve().parent / "runs"):
        for file in sorted(place.rglob("*")) if place.is_dir() else []:
            if file.suffix in _RUN_FILES and file.stat().st_size <= _LARGEST_RUN_FILE:
                yield file.read_text(encoding="utf-8", errors="replace")
