"""The foreign formats by name: how each is opened and which extra files it takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from features.convert.source import Source, check_text
from features.errors import InputError, UnknownName, UsageError

__all__ = ["IMPORT_FORMATS", "ImportFormat", "open_source"]


@dataclass(frozen=True, slots=True)
class ImportFormat:
    """One format: module and class of its reader, what it is, extra files by keyword."""

    module: str
    reader: str
    doc: str
    extras: tuple[str, ...] = ()


IMPORT_FORMATS: dict[str, ImportFormat] = {
    "bottom-up-tsv": ImportFormat(
        "bottom_up_tsv",
        "BottomUpFile",
        "bottom-up-attention or LXMERT TSV, also in parts",
        ("objects", "attributes"),
    ),
    "scan-precomp": ImportFormat("scan", "ScanData", "SCAN's precomp folder, GSMN's files too"),
    "lmdb": ImportFormat("lmdb_files", "LmdbFile", "LMDB of MMF, ViLBERT, VOLTA", ("objects",)),
    "vinvl": ImportFormat("vinvl", "VinvlFile", "VinVL or Oscar TSV", ("labels", "sizes")),
    "ban": ImportFormat("ban", "BanFile", "HDF5 of BAN and ReGAT", ("index",)),
    "npz": ImportFormat("npz_folder", "NpzFolder", "a .npz or .npy per image", ("boxes",)),
    "sgb": ImportFormat(
        "sgb", "SceneGraphBenchmark", "Scene-Graph-Benchmark's custom_prediction.json", ("info",)
    ),
    "visual-genome": ImportFormat(
        "visual_genome", "VisualGenomeFile", "scene_graphs.json", ("image_data",)
    ),
    "sgm": ImportFormat(
        "sgm", "SgmFile", "SGM's graphs and features", ("objects_dir", "unions_dir")
    ),
    "lgsgm": ImportFormat("scene_graphs", "SceneGraphFile", "graph JSON of LGSGM"),
    "entities": ImportFormat(
        "entities", "EntitiesFolder", "Flickr30k Entities' Annotations", ("sentences_dir",)
    ),
}


def open_source(name: str, path: Path | str, extras: Mapping[str, str] | None = None) -> Source:
    """Open a foreign file or folder by the name of its format.

    Args:
        name: a key of ``IMPORT_FORMATS``.
        path: the file or folder.
        extras: more files, by the keywords that the format takes.

    Raises:
        UnknownName: no such format.
        UsageError: an extra file that the format does not take.
        InputError: an id that cannot be written as UTF-8.
    """
    if name not in IMPORT_FORMATS:
        raise UnknownName.of("import format", name, IMPORT_FORMATS)
    entry = IMPORT_FORMATS[name]
    unknown = sorted(set(extras or {}) - set(entry.extras))
    if unknown:
        takes = ", ".join(entry.extras) or "none"
        raise UsageError(f"format {name!r} takes no extra file {unknown[0]!r}; it takes: {takes}.")
    reader = getattr(
        importlib.import_module(f"features.convert.readers.{entry.module}"), entry.reader
    )
    source = cast("Source", reader(path, **(extras or {})))
    try:
        check_text(path, "the image id", source.ids())
    except InputError:
        getattr(source, "close", lambda: None)()
        raise
    return source
