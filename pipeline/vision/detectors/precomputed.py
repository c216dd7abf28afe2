"""Precomputed detections: one detector per file format of ``features.convert``."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from features.convert import Source, open_source
from features.errors import InputError, UsageError
from features.format import HashCache, canonical_json
from features.records import Detections
from pipeline.vision.images import LazyImage


class Precomputed:
    """A file of detections as a detector.

    Args:
        name: the detector's name.
        source: the opened file; the hashes of its contents are part of the content key.
    """

    needs_pixels = False

    def __init__(self, name: str, source: Source) -> None:
        self.name, self.source = name, source
        self.provides = source.provides
        self.notes = list(source.notes)

    def identity(self) -> dict[str, object]:
        """Return name, version and the hash of the file contents."""
        return {"name": self.name, "version": 2, "content": self._digest}

    @property
    def feature_width(self) -> int:
        """Width of the features: that of the first readable image of the file, 0 without one."""
        for image_id in self.source.ids():
            with suppress(InputError):
                features = self.source.read(image_id).features
                return 0 if features is None else int(features.shape[1])
        return 0

    @cached_property
    def _digest(self) -> str:
        files = self.source.files
        hashes = HashCache().files(files)
        if len(hashes) == 1:  # independent of the file's path and name
            return hashes[0]
        names = [path.name for path in files]
        listing = canonical_json(sorted(zip(names, hashes, strict=True)))
        return hashlib.sha256(listing.encode()).hexdigest()

    def covers(self, image_id: str) -> bool:
        """Return whether the file has this image, under any of the names it may have there."""
        return self.source.find(image_id) is not None

    def detect(self, image: LazyImage) -> Detections:
        """Return the file's detections of the image."""
        return self.source.read(image.image_id)


def _open(name: str, form: str, path: Path | str | None, what: str, **extras: str) -> Precomputed:
    if path is None:
        raise UsageError(f"the detector {name!r} reads {what}: pass --detections PATH.")
    return Precomputed(name, open_source(form, path, extras))


def entities(path: Path | str | None = None) -> Precomputed:
    """Open the gold boxes of Flickr30k Entities.

    Args:
        path: the folder with ``Annotations`` (and ``Sentences``, the source of the labels), or the
            folder ``Annotations`` itself.
    """
    if path is not None and (Path(path) / "Annotations").is_dir():
        path = Path(path) / "Annotations"
    sentences = Path(path or "").parent / "Sentences"
    extras = {"sentences_dir": str(sentences)} if path and sentences.is_dir() else {}
    return _open("entities", "entities", path, "the folder of Flickr30k Entities", **extras)


def scene_graphs(path: Path | str | None = None) -> Precomputed:
    """Open scene graphs as published by LGSGM and SGM: one JSON file."""
    return _open("scene-graphs", "lgsgm", path, "a scene graph JSON file")


def visual_genome(path: Path | str | None = None) -> Precomputed:
    """Open Visual Genome's ``scene_graphs.json``; sizes come from ``image_data.json`` beside it."""
    return _open("visual-genome", "visual-genome", path, "Visual Genome's scene_graphs.json")


def coco(path: Path | str | None = None) -> Precomputed:
    """Open gold boxes of COCO: ``instances_*.json`` or ``panoptic_*.json``."""
    return _open("coco", "coco", path, "COCO's instances_*.json")


def psg(path: Path | str | None = None) -> Precomputed:
    """Open PSG's ``psg.json``: objects with boxes, and relations."""
    return _open("psg", "psg", path, "PSG's psg.json")


def scene_graph_benchmark(path: Path | str | None = None) -> Precomputed:
    """Open Scene-Graph-Benchmark's ``custom_prediction.json``, with its info file beside it."""
    return _open("scene-graph-benchmark", "sgb", path, "a custom_prediction.json")


def bottom_up(path: Path | str | None = None) -> Precomputed:
    """Open bottom-up-attention boxes and features in any of their published layouts.

    Args:
        path: a TSV or a part of one, a TSV of VinVL or Oscar (with ``.lineidx``), a folder of npz
            or npy files, SCAN's precomputed folder, an LMDB, or BAN's HDF5 file.
    """
    return _open("bottom-up", _layout(Path(path or "")), path, "bottom-up-attention features")


def _layout(path: Path) -> str:
    """Guess the layout of a bottom-up-attention file or folder from its name and files."""
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return "lmdb"
        return "scan-precomp" if any(path.glob("*_ims.npy")) else "npz"
    if path.suffix in (".lmdb", ".mdb"):
        return "lmdb"
    if path.suffix in (".hdf5", ".h5"):
        return "ban"
    return "vinvl" if path.with_suffix(".lineidx").is_file() else "bottom-up-tsv"
