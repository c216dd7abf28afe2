"""Make the negatives of an image's captions: at most one of each kind per caption."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from features.records import TextGraph
from pipeline.language import extract
from pipeline.negatives import replaced, swapped
from pipeline.negatives.change import Change, Scene
from pipeline.negatives.edits import apply
from pipeline.negatives.parsed import Counts, Parsed

LONGEST = 30  # tokens; parses of longer captions are often wrong

_MAKERS: dict[str, Callable[[Parsed, Scene], Iterator[Change]]] = {
    "swap": swapped.subjects,
    "attribute-swap": swapped.attributes,
    "noun": replaced.nouns,
    "attribute": replaced.attributes,
    "number": replaced.numbers,
    "predicate": replaced.predicates,
}
KINDS = tuple(_MAKERS)


@dataclass(frozen=True, slots=True)
class Negative:
    """A caption that is false for the image of another one.

    Attributes:
        caption: number of the true caption among those of the image.
        kind: one of ``KINDS``.   text: the false caption.
    """

    caption: int
    kind: str
    text: str


def make(
    parses: Sequence[TextGraph],
    counts: Counts,
    *,
    seed: str = "",
    kinds: Sequence[str] = KINDS,
) -> list[Negative]:
    """Make the negatives of one image.

    Args:
        parses: its captions, parsed with UD v2 dependencies.
        counts: (predicate, object lemma) -> how often a data set has it; decides what is usual.
        seed: text that determines the choice among several changes.
        kinds: which kinds to make.

    Returns:
        At most one negative of each kind per caption, none equal to a caption of the image.
    """
    graphs = extract(parses, "extended")
    scene = Scene.of(graphs, counts)
    known = {_plain(graph.caption) for graph in graphs}
    made = []
    for number, graph in enumerate(graphs):
        if graph.problem or not 3 <= len(graph.tokens) <= LONGEST:
            continue
        if len(graph.sentence_starts) > 1:
            continue
        parsed = Parsed(graph)
        for kind in kinds:
            changes = [c for c in _MAKERS[kind](parsed, scene) if scene.facts.isdisjoint(c.new)]
            text = _chosen(graph, changes, f"{seed}\n{number}\n{kind}\n{graph.caption}")
            if text is not None and _plain(text) not in known:
                made.append(Negative(number, kind, text))
    return made


def _chosen(graph: TextGraph, changes: list[Change], seed: str) -> str | None:
    """Return the caption after one of the changes, drawn by weight."""
    if not changes:
        return None
    draw = random.Random(seed)  # a text seeds it the same way on every machine
    change = draw.choices(changes, [change.weight for change in changes])[0]
    return apply(graph.caption, graph.tokens, change.edits)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace(".", " ").split())
