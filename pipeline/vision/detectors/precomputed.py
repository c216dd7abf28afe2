"""Detections that somebody computed before: a detector per file format of ``features.convert``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from features.convert.formats import open_source
from features.convert.source import Source, id_forms
from features.errors import UsageError
from features.format.hash_cache import HashCache
from features.format.keys import canonical_json
from features.records import Detections
from pipeline.detect import detectors
from pipeline.vision.images import Picture

__all__ = ["Precomputed", "entities", "scene_graphs"]


class Precomputed:
    """A file of detections behind the detector protocol.

    Args:
        name: the detector's name.
        source: the opened file; the hashes of its files stand in the content key.
    """

    needs_pixels = False

    def __init__(self, name: str, source: Source) -> None:
        self.name, self.source = name, source
        self.brings = source.provides
        self.notes = list(source.notes)
        self._known = set(source.ids())
        self._digest = ""

    def identity(self) -> dict[str, object]:
        """Return name, version and the hash of the files' content."""
        if not self._digest:
            hashes = HashCache().files(self.source.files)
            if len(hashes) == 1:  # wherever the file lies and whatever it is called
                self._digest = hashes[0]
            else:
                names = [path.name for path in self.source.files]
                listing = canonical_json(sorted(zip(names, hashes, strict=True)))
                self._digest = hashlib.sha256(listing.encode()).hexdigest()
        return {"name": self.name, "version": 1, "content": self._digest}

    def covers(self, image_id: str) -> bool:
        """Say whether the file has this image under a name by which it can be read."""
        return not self._known.isdisjoint(id_forms(image_id))

    def detect(self, picture: Picture) -> Detections:
        """Return what the file says about the picture."""
        return self.source.read(picture.image_id)


def _open(name: str, form: str, path: Path | str | None, what: str, **extras: str) -> Precomputed:
    if path is None:
        raise UsageError(f"the detector {name!r} reads {what}: give it with --detections PATH.")
    return Precomputed(name, open_source(form, path, extras))


@detectors.register("entities")
def entities(path: Path | str | None = None) -> Precomputed:
    """Gold boxes of Flickr30k Entities.

    Args:
        path: the folder that holds ``Annotations`` (and ``Sentences``, which name the boxes), or
            the folder ``Annotations`` itself.
    """
    if path is not None and (Path(path) / "Annotations").is_dir():
        path = Path(path) / "Annotations"
    sentences = Path(path or "").parent / "Sentences"
    extras = {"sentences_dir": str(sentences)} if path and sentences.is_dir() else {}
    return _open("entities", "entities", path, "the folder of Flickr30k Entities", **extras)


@detectors.register("scene-graphs")
def scene_graphs(path: Path | str | None = None) -> Precomputed:
    """Scene graphs as LGSGM and SGM publish them: boxes, labels and relations in one JSON file."""
    return _open("scene-graphs", "lgsgm", path, "a scene graph JSON file")


@detectors.register("visual-genome")
def visual_genome(path: Path | str | None = None) -> Precomputed:
    """Visual Genome's ``scene_graphs.json``; sizes from ``image_data.json`` beside it."""
    return _open("visual-genome", "visual-genome", path, "Visual Genome's scene_graphs.json")


@detectors.register("scene-graph-benchmark")
def scene_graph_benchmark(path: Path | str | None = None) -> Precomputed:
    """Scene-Graph-Benchmark's ``custom_prediction.json``, its info file beside it."""
    return _open("scene-graph-benchmark", "sgb", path, "a custom_prediction.json")


@detectors.register("bottom-up")
def bottom_up(path: Path | str | None = None) -> Precomputed:
    """Bottom-up-attention boxes and features, in any of the layouts they are passed on in.

    Args:
        path: a TSV (parts too), VinVL's or Oscar's TSV (with ``.lineidx``), a folder of npz or npy
            files, SCAN's precomputed folder, an LMDB, or the HDF5 of BAN.
    """
    return _open("bottom-up", _layout(Path(path or "")), path, "bottom-up-attention features")


def _layout(path: Path) -> str:
    """Tell the layout of a bottom-up file or folder by its names."""
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return "lmdb"
        return "scan-precomp" if any(path.glob("*_ims.npy")) else "npz"
    if path.suffix in (".lmdb", ".mdb"):
        return "lmdb"
    if path.suffix in (".hdf5", ".h5"):
        return "ban"
    return "vinvl" if path.with_suffix(".lineidx").is_file() else "bottom-up-tsv"
