"""The tuples of a caption, and the subsets that SPICE reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from features.records import TextGraph
from pipeline.language import word_class

Tuple = tuple[str, ...]
Synsets = Callable[[str], frozenset[str]]

_LENGTHS = {"object": 1, "attribute": 2, "relation": 3}
_WORDS = {"cardinality": "cardinals", "colour": "colours", "size": "sizes"}
SUBSETS = (*_LENGTHS, *_WORDS)


def tuples(graph: TextGraph) -> set[Tuple]:
    """Return the tuples of one caption's graph."""
    found: set[Tuple] = {(name,) for name in graph.objects}
    return found.union(graph.attributes, graph.triplets)


def belongs(item: Tuple, subset: str) -> bool:
    """Return whether a tuple is counted in a subset, one of ``SUBSETS``."""
    length = _LENGTHS.get(subset)
    return (
        len(item) == length if length else len(item) == 2 and item[1] in word_class(_WORDS[subset])
    )


def agree(one: str, other: str, synsets: Synsets | None) -> bool:
    """Return whether two lemmas are equal or share a synset."""
    return one == other or (synsets is not None and not synsets(one).isdisjoint(synsets(other)))


def contains(among: Iterable[Tuple], item: Tuple, synsets: Synsets | None) -> bool:
    """Return whether a tuple agrees in every position with one of the others."""
    return any(
        len(item) == len(other)
        and all(agree(a, b, synsets) for a, b in zip(item, other, strict=True))
        for other in among
    )


def merge(reference: set[Tuple], synsets: Synsets) -> set[Tuple]:
    """Merge objects that share a synset, with their attributes and relations."""
    name: dict[str, str] = {}
    for (lemma,) in sorted(item for item in reference if len(item) == 1):
        name[lemma] = next(
            (known for known in name.values() if agree(lemma, known, synsets)), lemma
        )
    merged: set[Tuple] = set()
    for item in sorted(reference, key=lambda item: (len(item), item)):
        item = tuple([word if at == 1 else name.get(word, word) for at, word in enumerate(item)])
        if not contains(merged, item, synsets):
            merged.add(item)
    return merged
