"""The schema of the on-disk format: every group, axis and column.

``data/schema.json`` lists the columns. Writers check against it, readers read by it, and
``docs/format.md`` is generated from it. A change of meaning increases ``FORMAT_VERSION``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import FormatError, UnknownName

FORMAT_NAME = "scenestore"
FORMAT_VERSION = 1
PAGE = 4096
ROLES = ("pad", "object", "attribute", "relation", "other")
"""Roles of a token; the code on disk is the position in this tuple."""

Columns = dict[str, npt.NDArray[np.generic]]
"""The datasets of one shard: path inside the HDF5 file -> array."""

Length = TypeVar("Length", int, npt.NDArray[np.int64])
Kind = Literal["dense", "offsets", "text", "coded"]


@dataclass(frozen=True, slots=True)
class Column:
    """One logical column.

    Attributes:
        name: name of the column, unique in the store.
        kind: ``dense`` array | ``offsets`` of a ragged axis | ``text`` | ``coded`` strings.
        axis: what a row stands for.
        doc: meaning and unit.
        dtypes: dtypes allowed on disk for dense values.
        shape: row shape; K = maximum objects, R = maximum relations, D = feature width.
        target: for ``offsets``, the axis that the offsets divide.
        optional: groups may lack the column.
    """

    name: str
    kind: Kind
    axis: str
    doc: str
    dtypes: tuple[str, ...] = ()
    shape: tuple[str | int, ...] = ()
    target: str = ""
    optional: bool = False

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return the HDF5 datasets that hold the column: path -> allowed dtypes."""
        if self.kind == "text":
            return {f"{self.name}/bytes": ("|u1",), f"{self.name}/offsets": ("<i8",)}
        if self.kind == "coded":
            return {
                f"{self.name}/codes": ("<i4",),
                f"{self.name}/names/bytes": ("|u1",),
                f"{self.name}/names/offsets": ("<i8",),
            }
        return {self.name: ("<i8",) if self.kind == "offsets" else self.dtypes}


@dataclass(frozen=True, slots=True)
class GroupSchema:
    """A column group: columns that one stage builds and that share a content key."""

    name: str
    doc: str
    columns: tuple[Column, ...]


def _read_groups() -> dict[str, GroupSchema]:
    text = resources.files("features.format").joinpath("data/schema.json").read_text("utf-8")
    groups = {}
    for name, group in json.loads(text).items():
        columns: list[dict[str, Any]] = [
            {key: tuple(v) if isinstance(v, list) else v for key, v in column.items()}
            for column in group["columns"]
        ]
        groups[name] = GroupSchema(name, group["doc"], tuple(Column(**c) for c in columns))
    return groups


GROUPS = _read_groups()


@functools.cache
def find_column(name: str) -> tuple[GroupSchema, Column]:
    """Return the group and the declaration of a column.

    Raises: UnknownName: no such column.
    """
    for group in GROUPS.values():
        for column in group.columns:
            if column.name == name:
                return group, column
    known = [column.name for group in GROUPS.values() for column in group.columns]
    raise UnknownName.of("column", name, known)


def shard_rows(images: int) -> int:
    """Return the number of images per shard: a power of two from 64 to 4096, for about 32 shards.

    >>> shard_rows(250), shard_rows(31_783), shard_rows(123_287)
    (64, 1024, 4096)
    """
    wanted = math.ceil(images / 32)
    return min(max(1 << max(wanted - 1, 0).bit_length(), 64), PAGE)


def shard_ranges(images: int) -> list[range]:
    """Return the image rows of every shard, in order.

    >>> shard_ranges(130)
    [range(0, 64), range(64, 128), range(128, 130)]
    """
    step = shard_rows(images)
    return [range(row, min(row + step, images)) for row in range(0, images, step)]


def axis_lengths(group: str, lengths: Mapping[str, Length], rows: Length) -> dict[str, Length]:
    """Return the length of every axis, given the lengths of the datasets.

    Lengths are integers for one shard, or arrays for several.
    """
    axes = {"image": rows} if group in ("index", "visual", "regions") else {}
    for column in GROUPS[group].columns:
        for path in column.parts():
            if path not in lengths or "/names/" in path or path.endswith("/bytes"):
                continue
            extra = column.kind == "offsets" or path.endswith("/offsets")
            axes.setdefault(column.axis, lengths[path] - extra)
    return axes


def check_columns(group: str, columns: Columns, rows: int) -> None:
    """Check the datasets of one shard against the schema.

    Raises: FormatError: a dataset is missing, unknown, or has a wrong dtype, length or value.
    """
    if group not in GROUPS:
        raise UnknownName.of("column group", group, GROUPS)
    known: set[str] = set()
    axes = axis_lengths(group, {path: len(data) for path, data in columns.items()}, rows)
    for column in GROUPS[group].columns:
        parts = column.parts()
        known.update(parts)
        missing = [path for path in parts if path not in columns]
        if column.optional and len(missing) == len(parts):
            continue
        if missing:
            raise FormatError(f"group {group!r}: dataset {missing[0]!r} is missing")
        for path, dtypes in parts.items():
            if columns[path].dtype.str not in dtypes:
                allowed = " or ".join(dtypes)
                found = columns[path].dtype.str
                raise FormatError(f"group {group!r}: {path!r} has dtype {found}, not {allowed}")
        _check_values(group, column, columns, axes)
    unknown = sorted(set(columns) - known)
    if unknown:
        raise FormatError(f"group {group!r}: the format has no dataset {unknown[0]!r}")


def _check_values(group: str, column: Column, columns: Columns, axes: Mapping[str, int]) -> None:
    length = axes[column.axis]
    name = column.name
    if column.kind == "dense":
        data = columns[name]
        if len(data) != length or data.ndim != 1 + len(column.shape):
            wanted = (length, *column.shape)
            raise FormatError(f"group {group!r}: {name!r} has shape {data.shape}, not {wanted}")
    elif column.kind == "offsets":
        end = axes.get(column.target)
        _check_offsets(f"{group}/{name}", columns[name], length, end)
    elif column.kind == "text":
        size = len(columns[f"{name}/bytes"])
        _check_offsets(f"{group}/{name}", columns[f"{name}/offsets"], length, size)
    else:
        codes, names = columns[f"{name}/codes"], columns[f"{name}/names/offsets"]
        size = len(columns[f"{name}/names/bytes"])
        _check_offsets(f"{group}/{name}/names", names, len(names) - 1, size)
        if len(codes) != length:
            raise FormatError(f"{group}/{name}: {len(codes)} codes, {length} {column.axis} rows")
        if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= len(names) - 1):
            raise FormatError(f"{group}/{name}: a code points outside the string table")


def _check_offsets(what: str, offsets: npt.NDArray[np.generic], rows: int, end: int | None) -> None:
    steps = np.diff(offsets.astype(np.int64))
    if len(offsets) != rows + 1 or offsets[0] != 0 or (steps.size and int(steps.min()) < 0):
        raise FormatError(f"{what}: offsets must rise from 0 and be {rows + 1} long")
    if end is not None and int(offsets[-1]) != end:
        raise FormatError(f"{what}: the last offset is {int(offsets[-1])}, there are {end} values")
