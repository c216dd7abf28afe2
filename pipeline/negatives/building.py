"""Write the negatives of a store: a store of captions with the same images, row by row.

The caption ``<id>~<kind>`` of the result is the negative of the caption ``<id>`` of the source. The
result has the groups ``index``, ``tokens`` and ``text``, parsed as the source was, so whatever
reads captions reads negatives. Shards that exist are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import UsageError
from features.format import (
    Group,
    bind_store,
    pack_index,
    pack_text,
    pack_tokens,
    unpack_index,
    unpack_tokens,
)
from features.names import negative_id, source_of_negative
from features.reading import flat_rows
from features.records import Caption, ImageEntry, TextGraph
from features.store import Store, open_store
from pipeline.language import extract, to_ud
from pipeline.negatives.making import KINDS, make
from pipeline.negatives.parsed import Counts
from pipeline.parse import load_parser

NEGATIVES_VERSION = "1"
"""Part of every key; increase it when any caption can get another negative."""


@dataclass(slots=True)
class Report:
    """The result: the manifest, and how many negatives of each kind.

    Attributes:
        manifest: the store manifest.   captions: true captions in the source.
        covered: captions that have a negative.   kinds: number of negatives by kind.
    """

    manifest: Path
    captions: int
    covered: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def write_negatives(
    source: str | Path,
    store_dir: str | Path,
    *,
    parser: str = "spacy",
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    progress: Callable[[int], object] = lambda images: None,
) -> Report:
    """Make the negatives of all captions of a store.

    Args:
        source: a store with parsed captions (UD v2).
        store_dir: folder of the result, not that of the source.
        parser: parses the negatives; take the one of the source.
        seed: of the choice among several changes of a caption.
        kinds: some of ``KINDS``.
        progress: called with the number of images of each finished shard.

    Raises:
        UsageError: an unknown kind, the source's own folder, or a source without parses.
        StoreError: the source is damaged, or the result cannot be written.
        MissingDependency: the parser is not installed.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise UsageError(f"no kind {unknown[0] if unknown else ''!r}. Known: {', '.join(KINDS)}.")
    opened = open_store(source)
    folder = Path(store_dir)
    if folder.resolve() == opened.path.parent.resolve():
        raise UsageError(f"{folder} is the folder of the source. Name another one.")
    groups = _Groups.of(opened, folder, parser, seed, sorted(kinds))
    for group in groups.made:
        group.prepare()
    ranges = groups.ranges
    todo = sorted({number for group in groups.made for number in group.missing(ranges)})
    counts = predicate_counts(opened) if todo else {}
    for number, rows in enumerate(ranges):
        if number in todo:
            groups.write(number, rows, counts)
        progress(len(rows))
    index = groups.index.finish(len(ranges)).image_index
    groups.tokens.finish(len(ranges), index=index)
    groups.text.finish(len(ranges), index=index)
    bound = {group.name: group.folder for group in groups.made}
    name = f"{opened.manifest['dataset']}-negatives"
    made = {
        "images": sum(map(len, ranges)),
        "source": str(opened.manifest["key"]),
        "captions": opened.group("index").manifest.captions,
    }
    manifest = bind_store(folder, name, bound, made)
    return _report(manifest, len(opened.column("caption_id")))


@dataclass(frozen=True)
class _Groups:
    """The groups of the source and of the result."""

    captions: Group
    parses: Group
    index: Group
    tokens: Group
    text: Group
    ranges: Sequence[range]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls, source: Store, folder: Path, parser: str, seed: int, kinds: Sequence[str]
    ) -> _Groups:
        known = {}
        for name in ("index", "tokens", "text"):
            if not source.has(_COLUMN[name]):
                raise UsageError(
                    f"{source.path} has no group {name!r}: its captions are not parsed. "
                    "Add it: luigi --module workflows AddText --store-dir STORE."
                )
            known[name] = source.group(name).manifest
        scheme = known["tokens"].params.get("parameters", {}).get("scheme", "ud")
        if scheme != "ud":
            raise UsageError(
                f"{source.path} has dependencies of the scheme {scheme!r}; negatives are made from "
                "UD v2. Bind a text variant with --scheme ud."
            )
        profile = known["text"].params.get("parameters", {}).get("profile", "extended")
        version = load_parser(parser).version
        settings = {"seed": seed, "kinds": list(kinds)}
        keys = {name: manifest.key for name, manifest in known.items()}
        index = Group.of(folder, "index", NEGATIVES_VERSION, settings, keys, stage="negatives")
        used = {"parser": parser, "version": version}
        tokens = Group.of(folder, "tokens", NEGATIVES_VERSION, used, {"index": index.key})
        text = Group.of(
            folder, "text", NEGATIVES_VERSION, {"profile": profile}, {"parses": tokens.key}
        )
        ends = np.cumsum([0, *known["index"].rows])
        return cls(
            Group.open(known["index"].folder),
            Group.open(known["tokens"].folder),
            index,
            tokens,
            text,
            [range(int(a), int(b)) for a, b in pairwise(ends)],
            {**settings, "parser": parser, "profile": profile},
        )

    @property
    def made(self) -> tuple[Group, Group, Group]:
        return self.index, self.tokens, self.text

    def write(self, number: int, rows: range, counts: Counts) -> None:
        """Make one shard of the result."""
        entries = unpack_index(self.captions.shard(number).columns())
        texts = [caption.text for entry in entries for caption in entry.captions]
        parses = unpack_tokens(self.parses.shard(number).columns(), texts)
        made: list[tuple[int, Caption]] = []  # image of the shard, negative
        at = 0
        for image, entry in enumerate(entries):
            own = parses[at : at + len(entry.captions)]
            at += len(entry.captions)
            for negative in make(
                own, counts, seed=str(self.settings["seed"]), kinds=self.settings["kinds"]
            ):
                name = negative_id(entry.captions[negative.caption].id, negative.kind)
                made.append((image, Caption(name, negative.text)))
        parsed = [
            to_ud(graph)
            for graph in load_parser(self.settings["parser"]).parse([c.text for _, c in made])
        ]
        kept = _not_entailed(made, parsed, entries, parses)
        negatives: list[list[Caption]] = [[] for _ in entries]
        for place in kept:
            image, caption = made[place]
            negatives[image].append(caption)
        graphs = [parsed[place] for place in kept]
        images = [
            ImageEntry(entry.id, entry.file, entry.split, tuple(captions))
            for entry, captions in zip(entries, negatives, strict=True)
        ]
        self.index.write(number, rows, pack_index(images))
        self.tokens.write(number, rows, pack_tokens(graphs))
        self.text.write(number, rows, pack_text(extract(graphs, self.settings["profile"])))


_COLUMN = {"index": "caption_id", "tokens": "form", "text": "object_lemma"}


def _not_entailed(
    made: Sequence[tuple[int, Caption]],
    parsed: Sequence[TextGraph],
    entries: Sequence[ImageEntry],
    parses: Sequence[TextGraph],
) -> list[int]:
    """Return which negatives say something that no caption of their image says."""
    said: list[set[tuple[str, ...]]] = []
    at = 0
    for entry in entries:
        own = extract(parses[at : at + len(entry.captions)], "extended")
        at += len(entry.captions)
        said.append(set().union(*map(_tuples, own)))
    return [
        place
        for place, ((image, _), graph) in enumerate(
            zip(made, extract(parsed, "extended"), strict=True)
        )
        if not graph.problem and not _tuples(graph) <= said[image]
    ]


def _tuples(graph: TextGraph) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = {(name,) for name in graph.objects}
    return found.union(graph.attributes, graph.triplets)


def predicate_counts(store: Store) -> Counts:
    """Return how often the captions of a store have a predicate with an object."""
    at, _, _ = flat_rows(store.offsets("relation_offsets"), np.arange(_captions(store)))
    owner = np.repeat(np.arange(_captions(store)), np.diff(store.offsets("relation_offsets")))
    first = store.offsets("object_offsets")[owner]
    predicates, objects = store.coded("relation_predicate"), store.coded("object_lemma")
    other = objects.codes[first + store.column("relation_object")[at]]
    pairs, times = np.unique(
        np.stack([predicates.codes[at], other], axis=1), axis=0, return_counts=True
    )
    return {
        (predicates.names[p], objects.names[o]): int(n)
        for (p, o), n in zip(pairs.tolist(), times.tolist(), strict=True)
    }


def _captions(store: Store) -> int:
    return len(store.column("caption_id"))


def _report(manifest: Path, captions: int) -> Report:
    report = Report(manifest, captions)
    sources = set()
    for name in open_store(manifest).column("caption_id"):
        source, kind = source_of_negative(str(name))
        report.kinds[kind] += 1
        sources.add(source)
    report.covered = len(sources)
    return report
