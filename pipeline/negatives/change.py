"""A change of a caption that makes it false, and what is known about its image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from features.records import TextGraph
from pipeline.negatives.edits import Edit
from pipeline.negatives.parsed import Counts, facts


@dataclass(frozen=True, slots=True)
class Change:
    """Edits that turn a caption into a negative.

    Attributes:
        kind: one of ``KINDS``.   edits: of its tokens.
        new: lemmas that the image's captions do not have.   weight: how usual the result is.
    """

    kind: str
    edits: tuple[Edit, ...]
    new: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Scene:
    """What all captions of an image say, and what captions of other images do.

    Attributes:
        facts: words and lemmas of the image's captions.
        attributes: their (object, attribute) pairs.
        counts: how often captions have a predicate with an object.
    """

    facts: frozenset[str]
    attributes: frozenset[tuple[str, str]] = frozenset()
    counts: Counts = field(default_factory=dict)

    @classmethod
    def of(cls, graphs: Iterable[TextGraph], counts: Counts) -> Scene:
        """Return the scene of an image with these captions."""
        graphs = list(graphs)
        pairs = frozenset(pair for graph in graphs for pair in graph.attributes)
        return cls(facts(graphs), pairs, counts)

    def known(self, noun: str, attribute: str) -> bool:
        """Return whether a caption gives an object this attribute."""
        return (noun, attribute) in self.attributes
