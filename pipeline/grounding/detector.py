"""The detector ``grounded``: boxes of Flickr30k Entities with relations from the captions."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from features.convert import EntitiesFolder, id_forms
from features.errors import UsageError
from features.format import HashCache, canonical_json
from features.records import Detections
from pipeline.grounding.graphs import GroundedGraph, GroundingCounts, ground
from pipeline.parse import PARSE_VERSION, parse, parser_version
from pipeline.vision import LazyImage


def open_entities(folder: Path | str) -> EntitiesFolder:
    """Open a folder of Flickr30k Entities: ``Annotations`` and ``Sentences``.

    Raises: MissingInput: one of them is missing.
    """
    return EntitiesFolder(Path(folder) / "Annotations", Path(folder) / "Sentences")


class Grounded:
    """Gold boxes with labels, attributes and relations from the captions of the same image.

    Args:
        path: folder with ``Annotations`` and ``Sentences``.
        parser: caption parser.   profile: rules for triplets.
    """

    needs_pixels = False
    provides = frozenset({"labels", "attributes", "relations", "size"})

    def __init__(
        self, path: Path | str | None = None, parser: str = "spacy", profile: str = "spice"
    ) -> None:
        if path is None:
            raise UsageError(
                "the detector 'grounded' reads a folder of Flickr30k Entities: pass --detections "
                "FOLDER, with Annotations and Sentences in it."
            )
        self.source = open_entities(path)
        self.parser, self.profile = parser, profile
        self.counts = GroundingCounts()

    @cached_property
    def _content(self) -> str:
        hashes = HashCache().files(self.source.files)
        names = [f"{path.parent.name}/{path.name}" for path in self.source.files]
        listing = canonical_json(sorted(zip(names, hashes, strict=True)))
        return hashlib.sha256(listing.encode()).hexdigest()

    def identity(self) -> dict[str, object]:
        """Return name, version, the hash of the files, parser and profile."""
        return {
            "name": "grounded",
            "version": 2,
            "content": self._content,
            "parser": [self.parser, parser_version(self.parser)[1], PARSE_VERSION],
            "profile": self.profile,
        }

    def covers(self, image_id: str) -> bool:
        """Return whether the folder has this image."""
        return any(form in self.source.index for form in id_forms(image_id))

    def graph(self, image_id: str) -> GroundedGraph:
        """Return the grounded graph of an image, with the words that state its relations.

        Raises: InputError: the files of the image are damaged. UnknownName: no such image.
        """
        gold = self.source.read(image_id)
        sentences = self.source.captions(image_id)
        parses = parse(
            [" ".join(sentence.words) for sentence in sentences], self.parser, self.profile
        )
        entities = self.source.entities(image_id)
        return ground(sentences, parses, gold.boxes, entities, gold.size, self.counts)

    def detect(self, image: LazyImage) -> Detections:
        """Return the grounded graph of an image as detections."""
        return self.graph(image.image_id).detections()
