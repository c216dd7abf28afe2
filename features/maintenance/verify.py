"""Check every byte of a store against what was written, and what the columns say against itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import DamagedError, FormatError, NewerFormatError, StoreError
from features.format.files import folder_lock, read_sealed, unreadable, write_errors
from features.format.keys import KEY_DIGITS
from features.format.manifest import (
    GroupManifest,
    check_binding,
    read_group,
    read_store_manifest,
    store_manifest_path,
)
from features.format.schema import GROUPS, check_columns
from features.format.shard import hash_rest
from features.format.sidecar import Part, ShardRecord, read_sidecar, shard_file
from features.format.unpack import read_columns

__all__ = ["Finding", "group_folders", "store_folder", "store_manifests", "verify_store"]

_BLOCK = 1 << 22
_FOLDER = re.compile(rf"({'|'.join(GROUPS)})-[0-9a-f]{{{KEY_DIGITS}}}")
_MANIFEST = re.compile(rf".+-[0-9a-f]{{{KEY_DIGITS}}}\.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written.

    Attributes:
        path: the file.   column: the dataset, "" for the file as a whole.   problem: what is wrong.
        group: the folder of the group that is damaged, None outside groups.
        shard: number of the damaged shard, None for manifests.
        damaged: the bytes are wrong, so that deleting the file and building again cures it; not so
            what the system would not read, what a newer release wrote, and a whole manifest that
            names what is not there.
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
        repair: delete what is damaged, so that the next build writes just that again; what is
            whole, and what could not be checked, stays.

    Returns:
        What was found, sorted by file; empty = the store is as it was written.

    Raises:
        FormatError: there is no store.
        StoreError: a folder cannot be read.
        WriteError: ``repair`` may not delete.
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
    except OSError as error:  # of a folder; files have findings
        raise unreadable(Path(error.filename or folder), error) from error
    findings.sort(key=lambda finding: (str(finding.path), finding.column))
    if repair:
        manifests = {finding.group: _manifest_of(finding.group) for finding in findings}
        for finding in findings:
            if finding.damaged:
                _remove(finding, manifests[finding.group])
    return findings


def _check_bindings(folder: Path) -> Iterator[Finding]:
    if (folder / "latest.json").exists():
        try:
            name = store_manifest_path(folder)
            if not name.exists():
                text = f"names {name.name}, which is not there"
                yield Finding(folder / "latest.json", "", text, damaged=False)
        except StoreError as error:
            yield _finding(folder / "latest.json", error)
    else:
        text = "is missing; build the store again"
        yield Finding(folder / "latest.json", "", text, damaged=False)
    for path in store_manifests(folder):
        try:
            document = read_store_manifest(path)
            bound = {}
            for name, entry in document["groups"].items():
                manifest = folder / entry["folder"] / "manifest.json"
                if not manifest.exists():
                    text = f"binds {entry['folder']}, which is not finished"
                    yield Finding(path, "", text, damaged=False)
                    continue
                with contextlib.suppress(StoreError):  # reported with its group
                    bound[name] = read_group(manifest.parent)
                    if bound[name].hash != entry["hash"]:
                        text = f"binds other contents of {entry['folder']}"
                        yield Finding(path, "", text, damaged=False)
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
        {int(entry.stem) for entry in folder.iterdir() if re.fullmatch(r"\d{5}", entry.stem)}
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
    path = shard_file(folder, number)
    sidecar = path.with_suffix(".json")
    if manifest is None and not sidecar.exists():
        return []  # of an unfinished group: the next build writes it, or is about to
    if not path.exists():
        return [Finding(path, "", "is missing", folder, number)]
    findings = []
    record: ShardRecord | None = None
    parts: dict[str, Part] = {}
    size, rest, rows = -1, "", 0
    try:
        record = read_sidecar(folder, number)
        parts, size, rest, rows = dict(record.parts), record.size, record.rest, record.rows
    except StoreError as error:
        findings.append(_finding(sidecar, error, folder, number))
    if manifest is not None and number < len(manifest.rows):
        listed = {name: kept[number] for name, kept in manifest.parts.items()}
        if record is not None and (parts, size, record.head, rest) != (
            listed,
            manifest.sizes[number],
            manifest.heads[number],
            manifest.rests[number],
        ):
            findings.append(Finding(sidecar, "", "differs from the manifest", folder, number))
        parts, size, rest = listed, manifest.sizes[number], manifest.rests[number]
        rows = manifest.rows[number]
    if not parts:
        return findings
    try:
        problems = list(_check_file(path, parts, size, rest))
        if not problems and record is not None:
            problems = list(_check_meaning(folder, record, rows))
    except OSError as error:
        failed = error if isinstance(error, StoreError) else unreadable(path, error)
        return [*findings, _finding(path, failed, folder, number)]
    return findings + [Finding(path, name, text, folder, number) for name, text in problems]


def _check_file(
    path: Path, parts: dict[str, Part], size: int, rest: str
) -> Iterator[tuple[str, str]]:
    """Yield (column, problem) of every dataset whose bytes differ, "" for the headers."""
    if path.stat().st_size != size:
        yield "", f"has {path.stat().st_size} bytes, {size} were written"
        return
    with path.open("rb", buffering=0) as file:
        for name, part in parts.items():
            digest, left = hashlib.sha256(), part.nbytes
            file.seek(part.offset)
            while left and (block := file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
            if digest.hexdigest() != part.sha256:
                yield name, "is not what was written"
    if hash_rest(path, size, parts.values()) != rest:
        yield "", "the HDF5 headers are not what was written"


def _check_meaning(folder: Path, record: ShardRecord, rows: int) -> Iterator[tuple[str, str]]:
    """Yield contradictions of a shard whose bytes are whole: HDF5, schema, union boxes."""
    import h5py

    path = shard_file(folder, record.number)
    with h5py.File(path, "r", locking=False) as file:
        for name, part in record.parts.items():
            dataset = file[name]
            found = (dataset.id.get_offset() or 0, dataset.shape, dataset.dtype.str)
            if found != (part.offset, part.shape, part.dtype):
                yield name, f"HDF5 has (offset, shape, dtype) {found}"
                return
    if record.group == "regions":
        return  # plain features: nothing that could contradict itself
    columns = read_columns(folder, record.number)
    try:
        check_columns(record.group, columns, rows)
    except FormatError as error:
        yield "", str(error)
        return
    if record.group == "visual":
        wrong = _wrong_unions(columns)
        if len(wrong):
            at = record.row0 + int(wrong[0])
            yield "union_boxes", f"image row {at}: not the box around subject and object"


def _wrong_unions(columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return the rows where a union box is not the smallest box around its two objects."""
    boxes, pairs, unions = columns["boxes"], columns["relations"], columns["union_boxes"]
    both = boxes[np.arange(len(boxes))[:, None, None], pairs]  # (rows, R, 2, 4)
    wanted = np.concatenate([both[..., :2].min(2), both[..., 2:].max(2)], axis=-1)
    real = np.arange(pairs.shape[1]) < columns["num_relations"][:, None]
    return np.flatnonzero((real[..., None] & (wanted != unions)).any((1, 2)))


def _remove(finding: Finding, manifest: GroupManifest | None) -> None:
    """Delete what a finding names, manifests first: what is left is unfinished, never wrong."""
    with write_errors(finding.path):
        if finding.group is None or finding.shard is None:
            finding.path.unlink(missing_ok=True)
            return
        with folder_lock(finding.group):  # as whoever writes: it may be whole by now
            if not any(
                found.damaged for found in _check_shard(finding.group, finding.shard, manifest)
            ):
                return
            (finding.group / "manifest.json").unlink(missing_ok=True)
            path = shard_file(finding.group, finding.shard)
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _manifest_of(folder: Path | None) -> GroupManifest | None:
    with contextlib.suppress(StoreError):
        return None if folder is None else read_group(folder)
    return None


def _finding(
    path: Path, error: StoreError, group: Path | None = None, shard: int | None = None
) -> Finding:
    """Return the finding of a file that could not be read as what it should be."""
    problem = str(error).removeprefix(f"{path}: ").split(". ")[0].rstrip(".")
    damaged = isinstance(error, DamagedError) or (
        isinstance(error, FormatError) and not isinstance(error, NewerFormatError)
    )
    return Finding(path, "", problem, group, shard, damaged)
