"""Training data for labels and predicates from grounded graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from features.records import Detections
from features.store import Store
from pipeline.grounding.detector import Grounded
from pipeline.grounding.graphs import COLOURS, GroundedGraph
from pipeline.vision import GoldBoxes, LabelGraph, LabelledRegions

# Nouns that are counted as another one: forms that the lemmatiser keeps, and names of one class.
SYNONYMS = {
    "bicycle": "bike",
    "cellphone": "phone",
    "children": "child",
    "dirtbike": "motorcycle",
    "dogs": "dog",
    "gentleman": "man",
    "glasses": "glass",
    "kids": "kid",
    "men": "man",
    "motorbike": "motorcycle",
    "tee-shirt": "t-shirt",
    "tshirt": "t-shirt",
    "women": "woman",
}
_SAME_ATTRIBUTE = {
    "blond": "blonde",
    "coloured": "colored",
    "gray": "grey",
    "multicolor": "colorful",
    "multicolored": "colorful",
    "wood": "wooden",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names that say nothing about how an object looks.
_NOT_NOUNS = COLOURS | _words(
    "area background closeup dark distance end everyone formation front group image lot middle "
    "number object one other part patch photo photograph picture set shade shot side someone "
    "something strip top view"
)
_NOT_ATTRIBUTES = _words(
    "back color cover different dress empty face fake fall far first front full funny hair haired "
    "hand head high hind last left light lone look low march middle next open oppose other own "
    "paint park play race right second similar single spot stuff team third"
)


def noun_of(noun: str) -> str:
    """Return the noun that a noun is counted as."""
    return SYNONYMS.get(noun, noun)


def gold_boxes(graph: GroundedGraph) -> GoldBoxes:
    """Return the boxes of a grounded graph with their names, synonyms merged."""
    return GoldBoxes(
        graph.boxes,
        [frozenset(map(noun_of, names)) - _NOT_NOUNS for names in graph.nouns],
        [
            frozenset(_SAME_ATTRIBUTE.get(name, name) for name in names) - _NOT_ATTRIBUTES
            for names in graph.attributes
        ],
    )


def label_graphs(
    graphs: Sequence[GroundedGraph], min_boxes: int = 60, min_relations: int = 40
) -> list[LabelGraph]:
    """Return labels, relations and boxes of grounded graphs for ``fit_prior``.

    A box has the most frequent of its nouns that has enough boxes, or ``object``.

    Args:
        graphs: grounded graphs.
        min_boxes: nouns with fewer boxes are no labels.
        min_relations: predicates with fewer relations are left out.
    """
    nouns = Counter(noun_of(n) for graph in graphs for names in graph.nouns for n in names)
    predicates = Counter(name for graph in graphs for _, name, _ in graph.relations)
    found = []
    for graph in graphs:
        labels = []
        for names in graph.nouns:
            usual = (noun_of(noun) for noun, _ in names.most_common())
            known = [n for n in usual if nouns[n] >= min_boxes and n not in _NOT_NOUNS]
            labels.append(known[0] if known else "object")
        kept = [r for r in graph.relations if predicates[r[1]] >= min_relations]
        found.append(LabelGraph(labels, kept, graph.boxes))
    return found


def labelled_regions(store: Store, gold: Grounded, split: str) -> Iterator[LabelledRegions]:
    """Yield the regions of a store with their features and gold boxes.

    Args:
        store: built with ``--detector regions --max-objects 128``.
        gold: grounded graphs of the same images; other images are passed over.
        split: name of the split to read.
    """
    ids = store.images["id"].tolist()
    for row in store.image_rows(split).tolist():
        if not gold.covers(ids[row]):
            continue
        graph = store.graph(ids[row])
        found = Detections(graph.boxes, graph.labels, graph.scores, graph.size)
        features = store.gather("object_features", np.array([row]))[0][: len(graph.labels)]
        yield LabelledRegions(ids[row], found, features, gold_boxes(gold.graph(ids[row])))
