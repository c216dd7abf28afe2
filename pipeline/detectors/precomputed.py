"""Detections that somebody computed before: a detector per file format of ``features.convert``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from features.convert.source import Source
from features.errors import UsageError
from features.keys import HashCache, canonical_json
from features.records import Detections
from pipeline.detect import detectors
from pipeline.images import Picture

__all__ = ["Precomputed", "entities", "scene_graphs"]


class Precomputed:
    """A file of detections behind the detector protocol.

    Args:
        name: the detector's name.
        source: the opened file.
        files: everything the source reads; their hashes stand in the content key.
        options: reading options that change the result.
    """

    needs_pixels = False

    def __init__(
        self, name: str, source: Source, files: list[Path], options: dict[str, object] | None = None
    ) -> None:
        self.name, self.source, self._files = name, source, files
        self._options = options or {}
        self.brings = source.brings
        self.notes = list(source.notes)
        self._known = set(source.ids())
        self._digest = ""

    def identity(self) -> dict[str, object]:
        """Return name, version, reading options and the hash of the files' content."""
        if not self._digest:
            hashes = HashCache().files(self._files)
            if len(hashes) == 1:  # wherever the file lies and whatever it is called
                self._digest = hashes[0]
            else:
                names = [path.name for path in self._files]
                listing = canonical_json(sorted(zip(names, hashes, strict=True)))
                self._digest = hashlib.sha256(listing.encode()).hexdigest()
        return {"name": self.name, "version": 1, "content": self._digest, **self._options}

    def covers(self, image_id: str) -> bool:
        """Say whether the file has this image, with or without ``.jpg``."""
        stem = image_id.removesuffix(".jpg")
        return bool({image_id, stem, f"{image_id}.jpg"} & self._known)

    def detect(self, picture: Picture) -> Detections:
        """Return what the file says about the picture."""
        return self.source.read(picture.image_id)


def _need(name: str, path: Path | str | None, what: str) -> Path:
    if path is None:
        raise UsageError(f"the detector {name!r} reads {what}: give it with --detections PATH.")
    return Path(path)


@detectors.register("entities")
def entities(path: Path | str | None = None) -> Precomputed:
    """Gold boxes of Flickr30k Entities.

    Args:
        path: the folder that holds ``Annotations`` (and ``Sentences``, which name the boxes), or
            the folder ``Annotations`` itself.
    """
    from features.convert.entities import EntitiesFolder

    root = _need("entities", path, "the folder of Flickr30k Entities")
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    sentences = annotations.parent / "Sentences"
    if not sentences.is_dir():
        return Precomputed(
            "entities", EntitiesFolder(annotations), sorted(annotations.glob("*.xml"))
        )
    files = [*sorted(annotations.glob("*.xml")), *sorted(sentences.glob("*.txt"))]
    return Precomputed("entities", EntitiesFolder(annotations, sentences), files)


@detectors.register("scene-graphs")
def scene_graphs(path: Path | str | None = None) -> Precomputed:
    """Scene graphs as LGSGM and SGM publish them: boxes, labels and relations in one JSON file."""
    from features.convert.scene_graphs import SceneGraphFile

    file = _need("scene-graphs", path, "a scene graph JSON file")
    return Precomputed("scene-graphs", SceneGraphFile(file), [file])
