"""The schema of the on-disk format: every group, axis and column.

Writers check against these tables, readers read by them, and ``docs/format.md`` is generated from
them (``python -m features.format.page``). A change of meaning increases ``FORMAT_VERSION``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import FormatError, UnknownName

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "GROUPS",
    "ROLES",
    "Column",
    "Columns",
    "GroupSchema",
    "axis_lengths",
    "check_columns",
    "find_column",
    "shard_ranges",
    "shard_rows",
]

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
    """

    name: str
    kind: Kind
    axis: str
    doc: str
    dtypes: tuple[str, ...] = ()
    shape: tuple[str | int, ...] = ()
    target: str = ""

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

    def column(self, name: str) -> Column:
        """Return one column of the group."""
        return next(column for column in self.columns if column.name == name)


def _dense(name: str, axis: str, dtype: str, shape: tuple[str | int, ...], doc: str) -> Column:
    return Column(name, "dense", axis, doc, tuple(dtype.split("|or|")), shape)


def _offsets(name: str, axis: str, target: str) -> Column:
    doc = f"{target} rows of each {axis}: offsets[i] to offsets[i + 1]"
    return Column(name, "offsets", axis, doc, target=target)


def _coded(name: str, axis: str, doc: str, shape: tuple[str, ...] = ()) -> Column:
    return Column(name, "coded", axis, doc, shape=shape)


_FLOAT = "<f4"
_INT = "<i4"
_FEATURE = "<f2|or|<f4"

_INDEX = (
    Column("image_id", "text", "image", "id of the image, unique"),
    Column("image_file", "text", "image", "file under the images folder"),
    _coded("split", "image", "split of the image: train, val, test ..."),
    _offsets("caption_offsets", "image", "caption"),
    Column("caption_id", "text", "caption", "id of the caption, unique"),
    Column("caption", "text", "caption", "text of the caption"),
)
_VISUAL = (
    _coded("skipped", "image", '"" or the reason why the image was skipped'),
    _dense("image_size", "image", _INT, (2,), "width, height in pixels after EXIF rotation"),
    _dense("num_objects", "image", _INT, (), "number of objects; the remaining rows are padding"),
    _dense("boxes", "image", _FLOAT, ("K", 4), "xyxy pixels, zeros where padded"),
    _coded("labels", "image", 'class of each object, "" where padded', ("K",)),
    _dense("scores", "image", _FLOAT, ("K",), "detector score, zeros where padded"),
    _dense(
        "num_relations", "image", _INT, (), "number of relations; the remaining rows are padding"
    ),
    _dense("relations", "image", _INT, ("R", 2), "subject row, object row; zeros where padded"),
    _coded("predicates", "image", 'predicate of each relation, "" where padded', ("R",)),
    _dense("relation_scores", "image", _FLOAT, ("R",), "score of each relation"),
    _dense(
        "union_boxes", "image", _FLOAT, ("R", 4), "xyxy pixels, smallest box around both objects"
    ),
    _offsets("object_attribute_offsets", "image", "object attribute"),
    _dense(
        "object_attribute_object",
        "object attribute",
        _INT,
        (),
        "row of its object within the image",
    ),
    _coded("object_attribute", "object attribute", "attribute of an object"),
)
_REGIONS = (
    _dense("object_features", "image", _FEATURE, ("K", "D"), "region features, zero padded"),
    _dense("union_features", "image", _FEATURE, ("R", "D"), "features of the union boxes"),
)
_TOKENS = (
    _offsets("token_offsets", "caption", "token"),
    _coded("form", "token", "token as written"),
    _coded("lemma", "token", "lemma"),
    _coded("upos", "token", "universal part of speech"),
    _coded("xpos", "token", "Penn Treebank tag"),
    _coded("deprel", "token", "dependency relation to the head"),
    _dense("head", "token", _INT, (), "head, 0-based in the caption; -1 = root of a sentence"),
    _coded("scheme", "caption", "dependency scheme of head and deprel"),
    _coded("parse_problem", "caption", '"" or the problem met while parsing the caption'),
)
_TEXT = (
    _dense("role", "token", "|u1", (), "1 object, 2 attribute, 3 relation, 4 other"),
    _offsets("object_offsets", "caption", "object"),
    _coded("object_lemma", "object", "lemma of the object"),
    _offsets("mention_offsets", "object", "mention"),
    _dense("mention", "mention", _INT, (), "token of a mention; the first is the head token"),
    _offsets("attribute_offsets", "caption", "attribute"),
    _coded("attribute", "attribute", "the attribute"),
    _dense("attribute_object", "attribute", _INT, (), "row of its object within the caption"),
    _dense("attribute_position", "attribute", _INT, (), "its token, -1 = no token of its own"),
    _offsets("relation_offsets", "caption", "relation"),
    _dense("relation_subject", "relation", _INT, (), "row of the subject within the caption"),
    _dense("relation_object", "relation", _INT, (), "row of the object within the caption"),
    _coded("relation_predicate", "relation", "lemmas of the predicate"),
    _offsets("predicate_position_offsets", "relation", "predicate position"),
    _dense("predicate_position", "predicate position", _INT, (), "token of the predicate"),
)

GROUPS: dict[str, GroupSchema] = {
    group.name: group
    for group in (
        GroupSchema(
            "index", "Images, captions, ids and splits; defines the rows of all groups.", _INDEX
        ),
        GroupSchema("visual", "Scene graph of each image, padded.", _VISUAL),
        GroupSchema("regions", "Features of objects and of union boxes, padded.", _REGIONS),
        GroupSchema("tokens", "Tokens and dependency graph of each caption.", _TOKENS),
        GroupSchema("text", "Roles, objects, attributes and relations of each caption.", _TEXT),
    )
}


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
