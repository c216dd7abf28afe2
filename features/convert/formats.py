"""The foreign formats by name: the reader or writer of each and the options that it takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from features.convert.safe.values import check_text
from features.convert.source import Source
from features.errors import InputError, UnknownName, UsageError

__all__ = ["EXPORT_FORMATS", "IMPORT_FORMATS", "ExportFormat", "ImportFormat", "open_source"]


@dataclass(frozen=True, slots=True)
class ImportFormat:
    """A format that can be read.

    Attributes:
        module, reader: module in ``features.convert.readers`` and its class.
        doc: one line of help.
        extras: keywords of further files that the reader takes.
    """

    module: str
    reader: str
    doc: str
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format that can be written.

    Attributes:
        module, function: module in ``features.convert.writers`` and its function.
        doc: one line of help.
        options: what the writer takes beside ``splits`` and ``overwrite``.
    """

    module: str
    function: str
    doc: str
    options: tuple[str, ...] = ()


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

EXPORT_FORMATS: dict[str, ExportFormat] = {
    "scan-precomp": ExportFormat(
        "scan", "export_scan", "folder for SCAN, GSMN and HREM", ("min_count", "vocab")
    ),
    "parquet": ExportFormat("text", "export_parquet", "folder of Parquet tables"),
    "conllu": ExportFormat("text", "export_conllu", "parsed captions, one file"),
    "coco-captions": ExportFormat("text", "export_coco_captions", "COCO's captions JSON"),
    "sgb": ExportFormat("graphs", "export_sgb", "folder of Scene-Graph-Benchmark's JSON"),
    "lgsgm": ExportFormat("graphs", "export_lgsgm", "folder of LGSGM's JSON"),
    "faiss": ExportFormat(
        "faiss", "export_faiss", "embeddings, ids and an index", ("embeddings", "of")
    ),
}


def open_source(name: str, path: Path | str, extras: Mapping[str, str] | None = None) -> Source:
    """Open a foreign file or folder.

    Args:
        name: a key of ``IMPORT_FORMATS``.
        path: file or folder.
        extras: further files, by the keywords that the format takes.

    Raises:
        UnknownName: there is no such format.
        UsageError: the format does not take an extra file.
        InputError: the file is not of this format, or an id cannot be written as UTF-8.
    """
    if name not in IMPORT_FORMATS:
        raise UnknownName.of("import format", name, IMPORT_FORMATS)
    entry = IMPORT_FORMATS[name]
    if unknown := sorted(set(extras or {}) - set(entry.extras)):
        takes = ", ".join(entry.extras) or "none"
        raise UsageError(f"format {name!r} takes no extra file {unknown[0]!r}; it takes: {takes}.")
    module = importlib.import_module(f"features.convert.readers.{entry.module}")
    source = cast("Source", getattr(module, entry.reader)(path, **(extras or {})))
    try:
        check_text(path, "the image id", source.ids())
    except InputError:
        source.close()
        raise
    return source
