"""Content keys of the text groups.

They depend on images and captions alone, so an imported store shares parses and triplets with a
built one that has the same captions.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from features.errors import UnknownName, UsageError
from features.format import (
    Group,
    hash_items,
    read_group,
    read_store_manifest,
    shard_ranges,
    shard_rows,
    unpack_index,
)
from features.plugins import load_plugins
from features.records import ImageEntry
from pipeline.language import PROFILES, RULES_VERSION, SCHEMES
from pipeline.parse import PARSE_VERSION, parser_version
from workflows.build.options import TextOptions

INDEX_VERSION = "1"


class TextPlan(abc.ABC):
    """The index and text groups of one set of captions.

    Args:
        store_dir: folder of the store.   options: parser, profile and scheme.

    Raises: UsageError: a module of ``--plugins`` cannot be imported.
    """

    def __init__(self, store_dir: Path, options: TextOptions) -> None:
        load_plugins(options.plugins)
        self.store_dir = store_dir
        self.options = options

    @property
    @abc.abstractmethod
    def entries(self) -> Sequence[ImageEntry]:
        """The images of the store, in row order."""

    @property
    @abc.abstractmethod
    def index(self) -> Group:
        """The index group: images, splits and captions."""

    @property
    def ranges(self) -> list[range]:
        """Image rows of each shard; they depend on the number of images alone."""
        return shard_ranges(len(self.entries))

    @cached_property
    def built_index(self) -> Group:
        """The index group as a build of these images and captions names it."""
        listed = (
            [e.id, e.file, e.split, [[c.id, c.text] for c in e.captions]] for e in self.entries
        )
        parameters = {"rows_per_shard": shard_rows(len(self.entries))}
        return Group.of(
            self.store_dir, "index", INDEX_VERSION, parameters, {"images": hash_items(listed)}
        )

    def check_text(self) -> None:
        """Check the names of parser, profile and scheme. Raises: UnknownName."""
        parser_version(self.options.parser)
        for kind, name, known in (
            ("profile", self.options.profile, PROFILES),
            ("scheme", self.options.scheme, SCHEMES),
        ):
            if name not in known:
                raise UnknownName.of(kind, name, known)

    @cached_property
    def parses(self) -> Group:
        """Tokens with UD dependencies, the input of the triplet rules."""
        parser, version = parser_version(self.options.parser)
        parameters = {"parser": parser, "version": version}
        return Group.of(
            self.store_dir, "tokens", PARSE_VERSION, parameters, {"index": self.built_index.key}
        )

    @cached_property
    def tokens(self) -> Group:
        """Tokens with dependencies in the chosen scheme; for ``ud``, the parses themselves."""
        scheme = self.options.scheme
        if scheme == "ud":
            return self.parses
        inputs = {"parses": self.parses.key}
        return Group.of(self.store_dir, "tokens", PARSE_VERSION, {"scheme": scheme}, inputs)

    @cached_property
    def text(self) -> Group:
        """Roles, objects, attributes and relations of every caption."""
        profile = self.options.profile
        inputs = {"parses": self.parses.key}
        return Group.of(self.store_dir, "text", RULES_VERSION, {"profile": profile}, inputs)

    def text_groups(self) -> dict[str, Group]:
        """Return the text groups by the name that a store manifest gives them."""
        self.check_text()
        found = {"tokens": self.tokens, "text": self.text}
        if self.tokens is not self.parses:
            found["tokens@ud"] = self.parses  # otherwise `features gc` would delete the parses
        return found


class StoredTextPlan(TextPlan):
    """The text groups for the captions of an existing store.

    Args:
        options: parser, profile and scheme; ``store_dir`` is the store manifest.

    Raises:
        StoreError: no store, or it is damaged.
        UsageError: the store has no captions.
    """

    def __init__(self, options: TextOptions) -> None:
        self.manifest = Path(options.store_dir)
        super().__init__(self.manifest.parent, options)
        self.document = read_store_manifest(self.manifest)
        folder = self.store_dir / self.document["groups"]["index"]["folder"]
        self._manifest = read_group(folder)
        if not int(self._manifest.axis_lengths()["caption"].sum()):
            raise UsageError(
                f"{self.manifest}: this store has no captions. Import it again with "
                "--captions FILE."
            )

    @cached_property
    def entries(self) -> list[ImageEntry]:
        """The images of the store, in row order."""
        return [entry for shard in self.index.shards() for entry in unpack_index(shard.columns())]

    @cached_property
    def index(self) -> Group:
        """The index group that the manifest names."""
        return Group.open(self._manifest.folder)


@lru_cache(maxsize=8)
def stored_text_plan(options: TextOptions) -> StoredTextPlan:
    """Return the plan of these options; the stages of one run share it."""
    return StoredTextPlan(options)
