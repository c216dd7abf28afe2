"""Which boxes the objects and triplets of a caption may mean.

Captions do not say where things are. An object of a caption is matched with the boxes whose label
is the same word or a synonym; a triplet with the visual relation between two such boxes whose
predicate begins with the same word, and otherwise with the best box of each end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.finding import same_word
from features.records import SceneGraph, TextGraph

__all__ = ["Light", "object_boxes", "triplet_boxes"]

MOST = 3  # boxes that one object of a caption lights
# A detector of few classes calls each of them "person".
PEOPLE = frozenset(
    ("adult", "baby", "boy", "child", "crowd", "girl", "guy", "kid", "lady", "man", "men", "people",
     "person", "player", "someone", "teenager", "toddler", "woman", "women")
)  # fmt: skip


@dataclass(frozen=True)
class Light:
    """Boxes and a relation of the visual graph that belong to something in a caption.

    Attributes:
        boxes: rows of objects.   relation: row of a relation, -1 if there is none.
    """

    boxes: tuple[int, ...] = ()
    relation: int = -1


def object_boxes(graph: SceneGraph, text: TextGraph, row: int) -> tuple[int, ...]:
    """Return the boxes that an object of a caption may mean, best first.

    >>> # the boxes labelled "bicycle" for the object "bike"
    """
    lemma = text.objects[row].lower()
    labels = [label.lower() for label in graph.labels]
    found = [at for at, label in enumerate(labels) if label == lemma]
    if not found:
        found = [
            at
            for at, label in enumerate(labels)
            if same_word(_head(label), _head(lemma), with_synonyms=True)
        ]
    if not found and _head(lemma) in PEOPLE:
        found = [at for at, label in enumerate(labels) if label == "person"]
    return tuple(sorted(found, key=lambda at: -graph.scores[at])[:MOST])


def triplet_boxes(graph: SceneGraph, text: TextGraph, row: int) -> Light:
    """Return the boxes, and where there is one the relation, that a triplet may mean."""
    subject, predicate, target = text.relations[row]
    ends = object_boxes(graph, text, subject), object_boxes(graph, text, target)
    if all(ends):
        word = predicate.split()[0]
        for at, (one, name, other) in enumerate(graph.relations):
            same = same_word(name.lower().split()[0] if name.strip() else "", word)
            if one in ends[0] and other in ends[1] and same:
                return Light((one, other), at)
    best: Sequence[int] = [rows[0] for rows in ends if rows]
    return Light(tuple(dict.fromkeys(best)))


def _head(name: str) -> str:
    """Return the last word of a name: of *tennis racket*, *racket*."""
    return name.replace("_", " ").rsplit(" ", 1)[-1]
