"""The keys of the text stages: the same for equal captions, from a captions file or from a store.

What is parsed depends on the images and captions alone. Their hash is made here from the records,
so a store that was imported shares parses and triplets with one that was built.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UnknownName, UsageError
from features.format.group import read_group
from features.format.keys import content_key, folder_name, hash_json
from features.format.manifest import read_store_manifest
from features.format.schema import shard_ranges, shard_rows

if TYPE_CHECKING:
    from features.records import ImageEntry

__all__ = ["StoredTextPlan", "TextPlan", "Variant", "stored_text_plan"]

INDEX_VERSION = "1"


@dataclass(frozen=True)
class Variant:
    """One stage's output: where it lies and everything that went into its key."""

    group: str
    key: str
    folder: Path
    params: dict[str, Any]


class TextPlan(abc.ABC):
    """Index, parses, tokens and text of one set of captions.

    Args:
        store_dir: folder of the store.
        parser, profile, scheme: caption parser, rule profile, dependency scheme that is stored.
    """

    def __init__(self, store_dir: Path, parser: str, profile: str, scheme: str) -> None:
        self.store_dir = store_dir
        self.parser, self.profile, self.scheme = parser, profile, scheme

    @property
    @abc.abstractmethod
    def entries(self) -> list[ImageEntry]:
        """The images of the store, in the order of their rows."""

    @property
    @abc.abstractmethod
    def index(self) -> Variant:
        """Images, splits and captions."""

    @property
    def ranges(self) -> list[range]:
        """Image rows of every shard: fixed by the data set's size, not by the workers."""
        return shard_ranges(len(self.entries))

    @cached_property
    def built_index(self) -> Variant:
        """The index as a build writes it."""
        listed = [
            [e.id, e.file, e.split, [[c.id, c.text] for c in e.captions]] for e in self.entries
        ]
        parameters = {"rows_per_shard": shard_rows(len(self.entries))}
        return self._variant("index", INDEX_VERSION, parameters, {"images": hash_json(listed)})

    @cached_property
    def parses(self) -> Variant:
        """The parse cache: tokens with UD dependencies, which the rules read."""
        from pipeline.parse import PARSE_VERSION, load_parser

        parser = load_parser(self.parser)
        parameters = {"parser": parser.name, "version": parser.version}
        return self._variant("tokens", PARSE_VERSION, parameters, {"index": self.built_index.key})

    @cached_property
    def tokens(self) -> Variant:
        """Tokens with dependencies in the scheme that the user wants; UD is the parsers' own."""
        from pipeline.language.dependency import SCHEMES
        from pipeline.parse import PARSE_VERSION

        if self.scheme == "ud":
            return self.parses
        if self.scheme not in SCHEMES:
            raise UnknownName.of("scheme", self.scheme, SCHEMES)
        parameters = {"scheme": self.scheme}
        return self._variant("tokens", PARSE_VERSION, parameters, {"parses": self.parses.key})

    @cached_property
    def text(self) -> Variant:
        """Roles, objects, attributes and relations of every caption."""
        from pipeline.language.spice.triplets import PROFILES, RULES_VERSION

        if self.profile not in PROFILES:
            raise UnknownName.of("profile", self.profile, PROFILES)
        parameters = {"profile": self.profile}
        return self._variant("text", RULES_VERSION, parameters, {"parses": self.parses.key})

    def text_variants(self) -> dict[str, Variant]:
        """Return the variants of the captions by the name under which a store binds them."""
        found = {"tokens": self.tokens, "text": self.text}
        if self.tokens is not self.parses:
            found["tokens@ud"] = self.parses  # keeps the parse cache from being swept
        return found

    def _variant(
        self, group: str, version: str, parameters: dict[str, Any], inputs: dict[str, str]
    ) -> Variant:
        key = content_key(group, version, parameters, inputs)
        params = {"stage": group, "version": version, "parameters": parameters, "inputs": inputs}
        return Variant(group, key, self.store_dir / folder_name(group, key), params)


class StoredTextPlan(TextPlan):
    """Text for the captions that a store has already.

    Args:
        manifest: the store manifest.
        parser, profile, scheme: caption parser, rule profile, dependency scheme that is stored.

    Raises:
        StoreError: no store, or one that is damaged.
        UsageError: a store without captions.
    """

    def __init__(self, manifest: Path, parser: str, profile: str, scheme: str) -> None:
        super().__init__(manifest.parent, parser, profile, scheme)
        self.manifest = manifest
        self.document = read_store_manifest(manifest)
        self._group = read_group(self.store_dir / self.document["groups"]["index"]["folder"])
        if not int(self._group.axis_lengths()["caption"].sum()):
            raise UsageError(
                f"{manifest}: this store has no captions. Import it again with --captions FILE."
            )

    @cached_property
    def _entries(self) -> list[ImageEntry]:
        from features.format.codec import unpack_index
        from features.format.sidecar import read_columns

        shards = range(len(self._group.rows))
        return [
            entry for k in shards for entry in unpack_index(read_columns(self._group.folder, k))
        ]

    @property
    def entries(self) -> list[ImageEntry]:
        """The images of the store, in the order of their rows."""
        return self._entries

    @property
    def index(self) -> Variant:
        """The index that the store binds."""
        group = self._group
        return Variant("index", group.key, group.folder, dict(group.params))


@lru_cache(maxsize=8)
def stored_text_plan(manifest: Path, parser: str, profile: str, scheme: str) -> StoredTextPlan:
    """Return the plan of these options; the stages of one run share it."""
    return StoredTextPlan(manifest, parser, profile, scheme)
