"""Check every byte of a store against its hash, and the columns for contradictions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import DamagedError, FormatError, NewerFormatError, StoreError
from features.format import (
    GROUPS,
    KEY_DIGITS,
    GroupManifest,
    Shard,
    check_binding,
    folder_lock,
    read_group,
    read_sealed,
    read_store_manifest,
    replacing,
    store_manifest_path,
    unreadable,
    write_errors,
)

_FOLDER = re.compile(rf"({'|'.join(GROUPS)})-[0-9a-f]{{{KEY_DIGITS}}}")
_MANIFEST = re.compile(rf".+-[0-9a-f]{{{KEY_DIGITS}}}\.json")


_VERIFIED = ".verified.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between a store and what was written.

    Attributes:
        path: the file.   column: the dataset, "" for the file as a whole.   problem: what is wrong.
        group: folder of the damaged group, None outside groups.
        shard: number of the damaged shard, None for manifests.
        damaged: True when the bytes are wrong, so that deleting the file and building again
            repairs it. False for a file that cannot be read, that a newer release wrote, or that
            is intact and refers to a missing file.
    """

    path: Path
    column: str
    problem: str
    group: Path | None = None
    shard: int | None = None
    damaged: bool = True

    def __str__(self) -> str:
        """Return one line: file, column, problem."""
        column = f" column {self.column!r}" if self.column else ""
        return f"{self.path}:{column} {self.problem}"


def store_folder(path: Path) -> Path:
    """Return the folder of a store, given the folder or one of its manifests."""
    return path if path.is_dir() else store_manifest_path(path).parent


def store_manifests(folder: Path) -> list[Path]:
    """Return the store manifests of a folder, sorted."""
    return sorted(path for path in folder.glob("*.json") if _MANIFEST.fullmatch(path.name))


def group_folders(folder: Path) -> list[Path]:
    """Return the group folders of a store, bound or not, sorted."""
    return sorted(path for path in folder.iterdir() if _FOLDER.fullmatch(path.name))


def verify_store(path: Path, *, repair: bool = False) -> list[Finding]:
    """Check a whole store folder: manifests, sidecars, headers, every column of every shard.

    Args:
        path: the folder, or one store manifest in it.
        repair: delete damaged files, so that the next build writes them again. Files that are
            intact, or that could not be checked, are kept.

    Returns:
        The findings, sorted by file; an empty list means that the store is intact.

    Raises:
        FormatError: the path is not a store.
        StoreError: a folder cannot be read.
        WriteError: a damaged file cannot be deleted.
    """
    folder = store_folder(path)
    try:
        if not folder.is_dir() or not (
            (folder / "latest.json").exists() or store_manifests(folder) or group_folders(folder)
        ):
            raise FormatError(f"{folder}: not a store. Check the path, or build it first.")
        findings = [*_check_bindings(folder)]
        for group in group_folders(folder):
            findings += _check_group(group)
        findings += _check_codebooks(folder)
    except StoreError:
        raise
    except OSError as error:  # from a folder; errors of files become findings
        raise unreadable(Path(error.filename or folder), error) from error
    findings.sort(key=lambda finding: (str(finding.path), finding.column))
    _note_verified(folder, clean=not findings)
    if repair:
        manifests: dict[Path | None, GroupManifest] = {}
        for group in {finding.group for finding in findings if finding.group is not None}:
            with contextlib.suppress(StoreError):
                manifests[group] = read_group(group)
        for finding in findings:
            if finding.damaged:
                _remove(finding, manifests.get(finding.group))
    return findings


def last_verified(folder: Path) -> float | None:
    """Return when every byte of a store folder was last found intact, in seconds since 1970."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads((folder / _VERIFIED).read_text())["intact"])
    return None


def _note_verified(folder: Path, *, clean: bool) -> None:
    """Write down when a store was intact; forget it when it is not."""
    with contextlib.suppress(StoreError, OSError):  # a store that cannot be written
        if clean:
            with replacing(folder / _VERIFIED) as partial:
                partial.write_text(json.dumps({"intact": round(time.time())}) + "\n")
        else:
            (folder / _VERIFIED).unlink(missing_ok=True)


def _check_bindings(folder: Path) -> Iterator[Finding]:
    latest = folder / "latest.json"
    if latest.exists():
        try:
            name = store_manifest_path(folder)
            if not name.exists():
                yield _intact(latest, f"refers to {name.name}, which does not exist")
        except StoreError as error:
            yield _finding(latest, error)
    else:
        yield _intact(latest, "is missing; build the store again")
    for path in store_manifests(folder):
        try:
            document = read_store_manifest(path)
            bound = {}
            for name, entry in document["groups"].items():
                manifest = folder / entry["folder"] / "manifest.json"
                if not manifest.exists():
                    yield _intact(
                        path,
                        f"binds {entry['folder']}, which is unfinished: it has no manifest.json",
                    )
                    continue
                with contextlib.suppress(StoreError):  # reported with its group
                    bound[name] = read_group(manifest.parent)
                    if bound[name].hash != entry["hash"]:
                        yield _intact(path, f"binds {entry['folder']} with another hash")
            if "index" in bound:
                check_binding(bound)
        except StoreError as error:
            yield _finding(path, error)


def _check_codebooks(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob("vocab-*/*.json")):
        try:
            read_sealed(path, "codebook")
        except StoreError as error:
            yield _finding(path, error)


def _check_group(folder: Path) -> list[Finding]:
    path = folder / "manifest.json"
    numbers = sorted(
        {int(entry.stem) for entry in folder.iterdir() if re.fullmatch(r"\d{5,}", entry.stem)}
    )
    manifest: GroupManifest | None = None
    findings = []
    if path.exists():
        try:
            manifest = read_group(folder)
            numbers = sorted({*numbers, *range(len(manifest.rows))})
        except StoreError as error:
            findings.append(_finding(path, error, folder))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda number: _check_shard(folder, number, manifest), numbers):
            findings += found
    return findings


def _check_shard(folder: Path, number: int, manifest: GroupManifest | None) -> list[Finding]:
    shard = Shard(folder, number)
    path = shard.path
    if manifest is None and not shard.sidecar.exists():
        return []  # part of an unfinished group; the next build writes it
    if not path.exists():
        return [Finding(path, "", "is missing", folder, number)]
    findings = []
    record = listed = None
    try:
        record = shard.record
    except StoreError as error:
        findings.append(_finding(shard.sidecar, error, folder, number))
    if manifest is not None and number < len(manifest.rows):
        listed = manifest.record(number)
        if record is not None and record != listed:
            findings.append(Finding(shard.sidecar, "", "differs from the manifest", folder, number))
    expected = listed or record
    if expected is None:
        return findings
    try:
        problems = list(shard.problems(expected))
        if not problems and record is not None:
            problems = list(shard.contradictions())
            if not problems and record.group == "visual":
                problems = list(_union_problems(shard))
    except OSError as error:
        failed = error if isinstance(error, StoreError) else unreadable(path, error)
        return [*findings, _finding(path, failed, folder, number)]
    return findings + [Finding(path, name, text, folder, number) for name, text in problems]


def _union_problems(shard: Shard) -> Iterator[tuple[str, str]]:
    """Yield the first row where a union box is not the smallest box around its two objects."""
    columns: dict[str, Any] = shard.columns()
    boxes, pairs, unions = columns["boxes"], columns["relations"], columns["union_boxes"]
    both = boxes[np.arange(len(boxes))[:, None, None], pairs]  # (rows, R, 2, 4)
    wanted = np.concatenate([both[..., :2].min(2), both[..., 2:].max(2)], axis=-1)
    real = np.arange(pairs.shape[1]) < columns["num_relations"][:, None]
    wrong = np.flatnonzero((real[..., None] & (wanted != unions)).any((1, 2)))
    if len(wrong):
        at = shard.record.row0 + int(wrong[0])
        yield "union_boxes", f"image row {at}: not the box around subject and object"


def _remove(finding: Finding, manifest: GroupManifest | None) -> None:
    """Delete the files of a finding; manifests go first, so that no wrong store is left."""
    with write_errors(finding.path):
        if finding.group is None or finding.shard is None:
            finding.path.unlink(missing_ok=True)
            return
        with folder_lock(finding.group):  # writers hold it too; the shard may be intact by now
            if not any(
                found.damaged for found in _check_shard(finding.group, finding.shard, manifest)
            ):
                return
            (finding.group / "manifest.json").unlink(missing_ok=True)
            Shard(finding.group, finding.shard).delete()


def _intact(path: Path, problem: str) -> Finding:
    return Finding(path, "", problem, damaged=False)


def _finding(
    path: Path, error: StoreError, group: Path | None = None, shard: int | None = None
) -> Finding:
    """Return the finding for a file that could not be read."""
    problem = str(error).removeprefix(f"{path}: ").split(". ")[0].rstrip(".")
    damaged = isinstance(error, DamagedError) or (
        isinstance(error, FormatError) and not isinstance(error, NewerFormatError)
    )
    return Finding(path, "", problem, group, shard, damaged)
