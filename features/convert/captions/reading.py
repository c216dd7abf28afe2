"""Find the captions files that a user means and read each in its layout.

Layouts are told apart by their contents, and by the suffix where that decides:

* ``.json``, ``.json.gz``: Karpathy's ``dataset_*.json``; COCO's ``captions_{train,val}20xx.json``,
  whose split is a word of the file's name; a list of objects with an image and captions each
* ``.jsonl``, ``.csv``, ``.tsv``, ``.txt``, ``.parquet``: tables
* ``results_20130124.token`` and ``Flickr8k.token.txt``, with the lists of images beside it
* ``.tar``: webdataset
* folders: photos with texts beside them; tables called ``metadata``; tars; COCO's
  ``captions_*.json``; ``Sentences`` of Flickr30k Entities
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from features.convert.captions.collection import CaptionSet, Collector
from features.convert.captions.folders import (
    has_photos,
    read_entities,
    read_photo_folder,
    read_tar,
    split_of_folder,
    walk,
)
from features.convert.captions.json_files import read_document
from features.convert.captions.splitting import parse_shares
from features.convert.captions.tables import (
    TableRows,
    is_token_line,
    read_delimited,
    read_json_lines,
    read_parquet,
    read_token_lines,
)
from features.convert.safe.inputs import need_folder, text_lines, visible
from features.errors import InputError, MissingInput

_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_TOKEN = (".token", ".token.txt", ".token.subset")
_GZIPPED = (".csv.gz", ".tsv.gz", ".jsonl.gz")


def caption_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the captions files that an option names: one path, several with commas, or a folder.

    A folder of photos, and the ``Sentences`` folder of Flickr30k Entities, stay one path; any other
    folder stands for its ``captions_*.json``, ``metadata.*``, ``*.tar`` or ``*.token``.

    Raises: MissingInput: a path does not exist or a folder has no captions.
    """
    if isinstance(paths, str):
        paths = [paths] if Path(paths).exists() else [part for part in paths.split(",") if part]
    elif isinstance(paths, Path):
        paths = [paths]
    found: list[Path] = []
    for item in paths:
        path = Path(item)
        if not path.exists():
            raise MissingInput(f"{path}: no such captions file. Check --captions.")
        if path.is_dir():
            found += _in_folder(need_folder(path))
        else:
            found.append(path)
    if not found:
        raise MissingInput("--captions names no file.")
    return found


def _in_folder(folder: Path) -> list[Path]:
    if found := visible(folder, "captions_*.json"):
        return found
    tables = [
        folder / file
        for file in walk(folder)
        if file.rpartition("/")[2].partition(".")[0] == "metadata"
        and file.lower().endswith((*_TABLES, *_GZIPPED))
    ]
    if tables:
        return tables
    if found := [folder / file for file in walk(folder) if file.lower().endswith(".tar")]:
        return found
    tokens = [path for path in visible(folder, "*") if path.name.lower().endswith(_TOKEN)]
    if tokens := [path for path in tokens if ".lemma." not in path.name.lower()]:
        return tokens
    if visible(folder, "*.txt") or has_photos(folder):
        return [folder]
    raise MissingInput(
        f"{folder}: this folder has no captions_*.json, no metadata.csv or .jsonl, no Entities "
        "sentences (*.txt), no photos with texts beside them and no tars. Pass the file itself to "
        "--captions; docs/importing.md lists the layouts."
    )


def read_captions(
    paths: str | Path | Sequence[str | Path], *, on_error: str = "fail", split_by: str = ""
) -> CaptionSet:
    """Read one or several captions files.

    Args:
        paths: what ``caption_files`` takes.
        on_error: ``fail`` raises at the first entry that cannot be stored: a caption that is empty
            or no text, an id used twice, a name that leads out of a folder. ``skip`` drops and
            lists it.
        split_by: shares such as ``80/10/10``, by which images without a split get one.

    Raises:
        InputError: a file has no known layout, or an entry is bad and ``on_error`` is ``fail``.
        MissingInput: a file does not exist.
        UsageError: ``on_error`` or ``split_by`` is not such a value.
    """
    shares = parse_shares(split_by) if split_by else None
    collector = Collector(on_error, shares)
    files: list[Path] = []
    roots = [Path(item) for item in ([paths] if isinstance(paths, (str, Path)) else paths)]
    for path in caption_files(paths):
        root = next((root for root in roots if root.is_dir() and root in path.parents), path.parent)
        files += _read(path, root, collector)
    found = collector.result()
    if not found.entries:
        first = f" The first: {found.dropped[0][1]}." if found.dropped else ""
        raise InputError(
            f"{paths}: no image with captions in it. Is this the right file? "
            f"{found.n_dropped:,} entries were dropped.{first}"
        )
    return replace(found, files=tuple(files))


def _read(path: Path, root: Path, collector: Collector) -> list[Path]:
    """Add the images of one path; return the files that were read.

    Args:
        path: file or folder.   root: the folder that names of files inside tars and below folders
            begin at.   collector: takes the images.
    """
    if path.is_dir():
        photos = has_photos(path)
        return read_photo_folder(path, collector) if photos else read_entities(path, collector)
    inside = path.parent.relative_to(root).as_posix() if root in path.parents else "."
    folder = "" if inside == "." else inside
    name = path.name.lower().removesuffix(".gz")
    rows = TableRows(path, collector, folder, split_of_folder(f"{folder}/" if folder else ""))
    if name.endswith(".tar"):
        read_tar(path, collector, f"{folder}/" if folder else "")
    elif name.endswith(".json"):
        read_document(path, collector)
    elif name.endswith((".jsonl", ".ndjson")):
        read_json_lines(path, rows)
    elif name.endswith((".parquet", ".pq")):
        read_parquet(path, rows)
    elif _begins_with_token(path):
        return read_token_lines(path, collector)
    else:
        read_delimited(path, rows)
    return [path]


def _begins_with_token(path: Path) -> bool:
    """Return whether a file is of tab-separated ``image.jpg#0`` and captions."""
    if path.name.lower().endswith((".csv", ".tsv")):
        return False
    if path.name.lower().removesuffix(".gz").endswith(_TOKEN):
        return True
    for _, line in text_lines(path):
        if line.strip():
            return is_token_line(line.decode("utf-8", "replace"))
    return False
