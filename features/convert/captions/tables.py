"""Captions in tables: CSV, TSV, JSON lines and Parquet, one row a caption or an image.

Columns are known by their names, whatever their case: the image is ``file_name``, ``image`` ...,
the captions are ``caption``, ``text`` ..., and ``split`` is optional. Rows are read one by one, so
the length of a table does not matter.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import itertools
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from features.convert.captions.collection import Collector
from features.convert.captions.split_lists import SplitLists, read_split_lists
from features.convert.safe.inputs import damaged, text_lines
from features.convert.safe.json_files import parse_json
from features.convert.safe.values import brief, text_of
from features.decoding import SUFFIXES
from features.errors import InputError, MissingDependency
from features.names import plain_path
from features.records import Caption, ImageEntry

IMAGE: tuple[str, ...] = (
    "file_name",
    "filename",
    "image",
    "image_name",
    "image_path",
    "image_file",
    "img",
    "file",
)
IMAGE += ("img_name", "img_path", "path", "filepath", "photo", "image_id", "key")
TEXT: tuple[str, ...] = (
    "caption",
    "captions",
    "text",
    "texts",
    "comment",
    "sentence",
    "sentences",
    "description",
)
TEXT += ("raw", "caption_text", "captions_text", "title", "txt")
SPLIT = ("split", "set", "partition", "subset")
NUMBER = ("comment_number", "caption_number", "caption_no")
ID = ("caption_id", "sentid", "sentence_id", "comment_id")
DELIMITERS = (",", "\t", ";", "|")
LAYOUTS = (
    "A table needs a column of image files (file_name, image, ...) and one of captions (caption, "
    "text, ...); docs/importing.md lists the layouts."
)
_MAX_FIELD = 1 << 20  # characters of one field; a longer one is a quote that was not closed
_BUFFER = 1 << 20  # bytes of a column of a Parquet file that are read at a time
_NEW_ROW = re.compile(rf"^[^,;|\t\"]+({'|'.join(map(re.escape, SUFFIXES))})\"?\s*[,;|\t]", re.I)


class TableRows:
    """Add the rows of one table to a collector.

    Args:
        path: the table, for messages.
        collector: takes the images and the rows that cannot be used.
        folder: folder of the table inside the images folder; file names begin there.
        split: split of rows without one.
    """

    def __init__(self, path: Path, collector: Collector, folder: str = "", split: str = "") -> None:
        self.path, self.collector = path, collector
        self.folder, self.split = folder, split
        self._columns: dict[frozenset[str], dict[str, str]] = {}

    def add_json(self, line: bytes, number: int) -> None:
        """Add one line of JSON."""
        where = f"line {number}"
        try:
            row = parse_json(line, f"{self.path}, {where}", "")
        except InputError as error:
            self.collector.drop("row", where, str(error).removeprefix(f"{self.path}, "), self.path)
            return
        self.add(row, where)

    def add(self, row: object, where: str) -> None:
        """Add one row; ``where`` names it in messages."""
        try:
            if not isinstance(row, dict):
                raise InputError(f"{brief(row)} is no row with named values")
            entry = self._entry(row, where)
        except InputError as error:
            self.collector.drop("row", where, str(error).rstrip("."), self.path)
            return
        self.collector.add(entry, self.path)

    def _entry(self, row: Mapping[str, Any], where: str) -> ImageEntry:
        names = self._names(row)
        if "image" not in names or "text" not in names:
            lacks = "image files" if "image" not in names else "captions"
            raise InputError(f"no column of {lacks} in {brief(list(row))}. {LAYOUTS}")
        given = row[names["image"]]
        if isinstance(given, dict):  # an image of Hugging Face: its path, perhaps its bytes
            given = given.get("path")
        name = text_of(where, repr(names["image"]), given).strip()
        name = plain_path(name.replace("\\", "/"))
        if not name:
            raise InputError(f"{names['image']!r} is empty")
        split = row.get(names["split"]) if "split" in names else None
        plain = "" if _missing(split) else text_of(where, repr(names["split"]), split)
        file = f"{self.folder}/{name}" if self.folder else name
        texts = list(self._texts(row, names))
        key = self._key(row, names, name) if len(texts) == 1 else ""
        captions = tuple(Caption(key, text) for text in texts)
        return ImageEntry(file, file, plain or self.split, captions)

    def _texts(self, row: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
        """Yield the captions of a row: one text, or a list of texts."""
        column = names["text"]
        value = row[column]
        values = value if isinstance(value, list) else _listed(value)
        if not values:
            raise InputError(f"{column!r} is an empty list")
        for item in values:
            if isinstance(item, dict):  # sentences of Karpathy
                item = item.get("raw")
            if not isinstance(item, str):
                raise InputError(f"{column!r} is {brief(item)}, not text")
            yield item

    def _key(self, row: Mapping[str, Any], names: Mapping[str, str], name: str) -> str:
        """Return the id that a row gives its caption, "" if it gives none."""
        if "id" in names and not _missing(row[names["id"]]):
            return text_of("", repr(names["id"]), row[names["id"]])
        if "number" in names and not _missing(row[names["number"]]):
            return f"{name}#{text_of('', repr(names['number']), row[names['number']]).strip()}"
        return ""

    def _names(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return which column has what; rows with the same columns are looked up once."""
        columns = frozenset(row)
        if columns not in self._columns:
            self._columns[columns] = known_columns(row)
        return self._columns[columns]


def _listed(value: object) -> list[object]:
    """Return a value as a list; a list that pandas wrote as text is taken apart.

    >>> _listed('["A dog.", "A cat."]'), _listed("['A dog.']"), _listed("[A dog]")
    (['A dog.', 'A cat.'], ['A dog.'], ['[A dog]'])
    """
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = ast.literal_eval(value.strip())
            if isinstance(found, list) and all(isinstance(item, str) for item in found):
                return [*found]
    return [value]


def known_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns that are image, text, split, id and number, by their own names.

    >>> known_columns(["Image Name", "comment_number", "comment"])
    {'image': 'Image Name', 'text': 'comment', 'number': 'comment_number'}
    """
    plain: dict[str, str] = {}
    for column in columns:
        if isinstance(column, str):
            plain.setdefault(re.sub(r"[\s\-.]+", "_", column.strip().lower()), column)
    kinds = {"image": IMAGE, "text": TEXT, "split": SPLIT, "id": ID, "number": NUMBER}
    found = {
        kind: next((plain[name] for name in names if name in plain), None)
        for kind, names in kinds.items()
    }
    return {kind: column for kind, column in found.items() if column is not None}


def read_json_lines(path: Path, rows: TableRows) -> None:
    """Add the objects of a file of JSON lines, plain or gzipped."""
    for number, line in text_lines(path):
        if line.strip():
            rows.add_json(line, number)


def read_delimited(path: Path, rows: TableRows) -> None:
    """Add the rows of a CSV or TSV file, plain or gzipped.

    The header tells the delimiter. A file without a header must have an image file and a caption in
    each row.

    Raises: InputError: neither a header that is known nor an image file in the first row.
    """
    lines = _decoded(path, rows)
    first = next((line for line in lines if line[1].strip()), None)
    if first is None:
        raise InputError(f"{path}: the file is empty.")
    delimiter, header, start = _header(path, first[1])
    rest = itertools.chain([first], lines) if start == 0 else lines
    if delimiter in ",;":
        fields = _csv_fields(path, rest, delimiter, rows)
    else:
        fields = ((number, _plain_fields(line, delimiter)) for number, line in rest)
    for number, values in fields:
        where = f"line {number}"
        if not any(value.strip() for value in values):
            continue
        if delimiter == "|":
            values = _mended(values, header)
        if len(values) != len(header):
            reason = f"{len(values)} fields, the header has {len(header)}"
            advice = ": put a caption that holds the delimiter in quotes"
            if len(values) < len(header):
                advice = ""
            rows.collector.drop("row", where, f"{reason}{advice}", path)
            continue
        rows.add(dict(zip(header, values, strict=True)), where)


def _decoded(path: Path, rows: TableRows) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file as text, with their numbers; drop those that are not UTF-8."""
    for number, line in text_lines(path):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 text at byte {error.start} of the line. Save the file as UTF-8"
            rows.collector.drop("row", f"line {number}", reason, path)


def _header(path: Path, line: str) -> tuple[str, list[str], int]:
    """Return the delimiter, the names of the columns, and 1 if the first line is a header."""
    for delimiter in DELIMITERS:
        columns = [column.strip().strip('"') for column in line.rstrip("\r\n").split(delimiter)]
        found = known_columns(columns)
        if {"image", "text"} <= found.keys() and len(set(columns)) == len(columns):
            return delimiter, columns, 1
    for delimiter in DELIMITERS:
        fields = [field.strip().strip('"') for field in line.rstrip("\r\n").split(delimiter)]
        if len(fields) >= 2 and fields[0].lower().endswith(SUFFIXES):
            numbered = len(fields) > 2 and fields[1].isdecimal()  # Flickr30k's results.csv
            return delimiter, ["image", *(["comment_number"] if numbered else []), "caption"], 0
    raise InputError(f"{path}: the first line is {line.strip()[:80]!r}. {LAYOUTS}")


def _csv_fields(
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str, rows: TableRows
) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of CSV rows, with the number of each row's first line.

    A quoted field may go on over several lines. A quote that is not closed would take in the rest
    of the file: if a line inside looks like a row, or no end comes, the first line is dropped and
    reading goes on with the second.
    """
    csv.field_size_limit(_MAX_FIELD)
    again: deque[tuple[int, str]] = deque()  # lines to read once more

    def following() -> tuple[int, str] | None:
        return again.popleft() if again else next(lines, None)

    while (line := following()) is not None:
        row, size = [line], 0
        while True:
            try:
                texts = [text for _, text in row]
                yield line[0], next(csv.reader(texts, delimiter=delimiter, strict=True), [])
                break
            except csv.Error as error:
                if str(error) != "unexpected end of data":
                    rows.collector.drop("row", f"line {line[0]}", f"no CSV ({error})", path)
                    break
            more = following()
            size += 0 if more is None else len(more[1])
            if more is None or size > _MAX_FIELD or _NEW_ROW.match(more[1]):
                again.extendleft(reversed(row[1:] if more is None else [*row[1:], more]))
                rows.collector.drop("row", f"line {line[0]}", "a quote is not closed", path)
                break
            row.append(more)


def _plain_fields(line: str, delimiter: str) -> list[str]:
    """Return the fields of a line in which quotes mean nothing but around a whole field."""
    fields = line.rstrip("\r\n").split(delimiter)
    for at, value in enumerate(fields):
        inside = value.strip()[1:-1]
        quoted = len(value.strip()) > 1 and value.strip()[0] == value.strip()[-1] == '"'
        if quoted and '"' not in inside.replace('""', ""):
            fields[at] = inside.replace('""', '"')
    return fields


def _mended(values: list[str], header: list[str]) -> list[str]:
    """Return the fields of a row of Flickr30k's results.csv, which lacks a bar once.

    A number and a caption in one field become two fields; further bars belong to the caption.
    """
    values = [value.strip() for value in values]
    at = next((at for at, name in enumerate(header) if name in NUMBER), len(values))
    joined = re.fullmatch(r"(\d+)\s+(.+)", values[at], re.DOTALL) if at < len(values) else None
    if joined is not None:
        values = [*values[:at], joined[1], joined[2], *values[at + 1 :]]
    if len(values) > len(header):
        last = len(header) - 1
        return [*values[:last], " | ".join(values[last:])]
    return values


def read_parquet(path: Path, rows: TableRows) -> None:
    """Add the rows of a Parquet file, a thousand at a time.

    Raises:
        MissingDependency: pyarrow is not installed.
        InputError: not a complete Parquet file, or no columns of image files and captions.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency.of("pyarrow", "Reading Parquet", "pip install pyarrow") from error
    broken = (pa.ArrowException, OSError, ValueError, NotImplementedError)
    with (
        damaged(f"{path}: not a complete Parquet file", *broken),
        # through a small buffer: a group of rows can have gigabytes
        pq.ParquetFile(path, memory_map=False, buffer_size=_BUFFER) as file,
    ):
        columns = known_columns(file.schema_arrow.names)
        names = file.schema_arrow.names
        if not {"image", "text"} <= columns.keys():
            raise InputError(f"{path}: columns {brief(names)}. {LAYOUTS}")
        if twice := [name for name in columns.values() if names.count(name) > 1]:
            raise InputError(f"{path}: two columns are named {twice[0]!r}. Rename or remove one.")
        nested = [pa.types.is_struct(file.schema_arrow.field(c).type) for c in columns.values()]
        wanted = [
            f"{column}.path" if struct else column  # not the bytes of an image beside its path
            for column, struct in zip(columns.values(), nested, strict=True)
        ]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=wanted):
            for row in batch.to_pylist():
                rows.add(row, f"row {number}")
                number += 1


def read_token_lines(path: Path, collector: Collector) -> list[Path]:
    """Add the captions of ``results_20130124.token``: ``image.jpg#0<TAB>caption``.

    With lists of images beside the file, such as ``Flickr_8k.trainImages.txt``, images get their
    splits; images in no list are left out and counted. Returns the files that were read.

    Raises: MissingInput, InputError: as ``read_split_lists``; an image of a list has no caption, or
        is in two lists, and the collector's policy is ``fail``.
    """
    lists = read_split_lists(path, collector)
    for name, reason in lists.twice.items():
        collector.drop("image", name, reason, path.parent)
    splits: dict[str, str | None] = {}  # of the images so far; None: left out
    for number, raw in text_lines(path):
        where = f"line {number}"
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            collector.drop("row", where, f"not UTF-8 text at byte {error.start}", path)
            continue
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        key = plain_path(key.strip().replace("\\", "/"))
        name, sign, _ = key.rpartition("#")
        if not (tab and sign and name):
            reason = f"not 'image.jpg#k<TAB>caption': {line[:60]!r}"
            collector.drop("row", where, reason, path)
            continue
        split: str | None = ""
        if lists.files:
            if name not in splits:
                splits[name] = _listed_split(name, lists, collector)
            split = splits[name]
        if split is not None:
            collector.add(ImageEntry(name, name, split, (Caption(key, caption),)), path)
    named = {lists.listed_as(name) for name in splits}
    for name, place in lists.where.items():
        if name not in named and name not in lists.twice:
            collector.drop("image", name, f"{place}: no caption of it in {path.name}", path.parent)
    return [path, *lists.files]


def _listed_split(name: str, lists: SplitLists, collector: Collector) -> str | None:
    """Return the split of an image, None if the lists leave it out."""
    listed = lists.listed_as(name)
    if listed is None:
        collector.leave_out(name, "in no list of images")
        return None
    return None if listed in lists.twice else lists.split_of[listed]


def is_token_line(line: str) -> bool:
    """Return whether a line has the layout of ``results_20130124.token``."""
    key, tab, _ = line.partition("\t")
    return bool(tab and re.search(r"[^#]#\w+$", key.strip()))


def _missing(value: object) -> bool:
    """Return whether a value stands for nothing: null, NaN as pandas writes it, an empty field."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
