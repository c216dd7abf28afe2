"""Make the scene graph of one image or one caption from the columns of a store."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from features.format import ROLES, sentence_starts
from features.reading.reader import StoreReader
from features.records import SceneGraph, TextGraph


def scene_graph(store: StoreReader, row: int, image_id: str) -> SceneGraph:
    """Return the scene graph of an image row."""
    only = np.asarray([row])

    def one(name: str) -> npt.NDArray[Any]:
        return store.gather(name, only).reshape(store.row_shape(name))

    n, m = int(one("num_objects")), int(one("num_relations"))
    labels, predicates = store.coded("labels"), store.coded("predicates")
    width, height = one("image_size").tolist()
    names = [labels.names[code] for code in labels.codes[row, :n].tolist()]
    words = [predicates.names[code] for code in predicates.codes[row, :m].tolist()]
    pairs = one("relations")[:m].tolist()
    attributes: list[list[str]] = [[] for _ in range(n)]
    scores: list[list[float]] = [[] for _ in range(n)]
    start, stop = store.offsets("object_attribute_offsets")[row : row + 2].tolist()
    table = store.coded("object_attribute")
    owners = store.column("object_attribute_object")[start:stop].tolist()
    for owner, code in zip(owners, table.codes[start:stop].tolist(), strict=True):
        attributes[owner].append(table.names[code])
    scored = store.has("object_attribute_score")
    if scored:
        known = store.column("object_attribute_score")[start:stop].tolist()
        for owner, score in zip(owners, known, strict=True):
            scores[owner].append(score)
    return SceneGraph(
        image_id=image_id,
        size=(width, height),
        boxes=one("boxes")[:n],
        labels=tuple(names),
        scores=one("scores")[:n],
        relations=tuple((s, word, o) for (s, o), word in zip(pairs, words, strict=True)),
        relation_scores=one("relation_scores")[:m],
        union_boxes=one("union_boxes")[:m],
        attributes=tuple(map(tuple, attributes)),
        attribute_scores=tuple(map(tuple, scores)) if scored else None,
        shown=_shown(store, "detector"),
        relations_shown=_shown(store, "relations"),
    )


def _shown(store: StoreReader, plugin: str) -> float:
    """Return the score from which displays show what a plug-in found, 0 if none is recorded."""
    parameters = store.group("visual").manifest.params.get("parameters", {})
    try:
        return float(parameters[plugin]["shown"])
    except (KeyError, TypeError, ValueError):
        return 0.0


def text_graph(store: StoreReader, row: int) -> TextGraph:
    """Return the parsed caption of a caption row; only its tokens without a text group."""
    start, stop = store.offsets("token_offsets")[row : row + 2].tolist()

    def strings(name: str, first: int = start, last: int = stop) -> tuple[str, ...]:
        column = store.coded(name)
        return tuple(column.names[code] for code in column.codes[first:last].tolist())

    def ints(name: str, first: int, last: int) -> tuple[int, ...]:
        return tuple(store.column(name)[first:last].tolist())

    heads = ints("head", start, stop)
    tokens: dict[str, Any] = {
        "caption": store.group("index").text("caption")[row],
        "tokens": strings("form"),
        "lemmas": strings("lemma"),
        "upos": strings("upos"),
        "xpos": strings("xpos"),
        "heads": heads,
        "deprels": strings("deprel"),
        "scheme": strings("scheme", row, row + 1)[0],
        "problem": strings("parse_problem", row, row + 1)[0],
        "sentence_starts": sentence_starts(heads),
    }
    if not store.has("role"):
        return TextGraph(**tokens)

    def span(name: str) -> tuple[int, int]:
        first, last = store.offsets(name)[row : row + 2].tolist()
        return first, last

    def lists(offsets: str, values: str, first: int, last: int) -> tuple[tuple[int, ...], ...]:
        ends = store.offsets(offsets)[first : last + 1].tolist()
        return tuple(ints(values, a, b) for a, b in itertools.pairwise(ends))

    nodes, named, edges = (span(f"{kind}_offsets") for kind in ("object", "attribute", "relation"))
    objects = strings("object_lemma", *nodes)
    owners = ints("attribute_object", *named)
    subjects, targets = ints("relation_subject", *edges), ints("relation_object", *edges)
    predicates = strings("relation_predicate", *edges)
    return TextGraph(
        **tokens,
        roles=tuple(ROLES[code] for code in ints("role", start, stop)),
        objects=objects,
        object_positions=lists("mention_offsets", "mention", *nodes),
        attributes=tuple(
            (objects[owner], name)
            for owner, name in zip(owners, strings("attribute", *named), strict=True)
        ),
        attribute_objects=owners,
        attribute_positions=ints("attribute_position", *named),
        relations=tuple(zip(subjects, predicates, targets, strict=True)),
        relation_positions=lists("predicate_position_offsets", "predicate_position", *edges),
    )
