"""Write grounded graphs in Visual Genome's layout, each relation with the words that state it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from features.format import replacing
from pipeline.grounding.detector import Grounded
from pipeline.grounding.graphs import Evidence


def write_graphs(
    gold: Grounded,
    image_ids: Iterable[str],
    out: Path,
    step: Callable[[int], object] = lambda count: None,
) -> tuple[int, int]:
    """Write ``scene_graphs.json``, and ``image_data.json`` with the sizes beside it.

    Every relationship has ``evidence``: the captions that state it, with the words of subject,
    predicate and object and their token positions. Objects have all their nouns, the most frequent
    first.

    Args:
        gold: source of the graphs.   image_ids: which images.   out: the file to write.
        step: called with 1 after every image.

    Returns: the numbers of images and of relations.

    Raises: WriteError: the file cannot be written. InputError: the files of an image are damaged.
    """
    sizes: list[dict[str, object]] = []
    relations = 0
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
        file.write("[")
        for image_id in image_ids:
            entry, size = graph_entry(gold, image_id)
            file.write((",\n" if sizes else "\n") + json.dumps(entry, ensure_ascii=False))
            sizes.append({"image_id": image_id, "width": size[0], "height": size[1]})
            relations += len(entry["relationships"])
            step(1)
        file.write("\n]\n")
    with replacing(out.with_name("image_data.json")) as partial:
        partial.write_text(json.dumps(sizes, ensure_ascii=False), encoding="utf-8")
    return len(sizes), relations


def graph_entry(gold: Grounded, image_id: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return the entry of one image and its (width, height)."""
    graph = gold.graph(image_id)
    captions = [sentence.words for sentence in gold.source.captions(image_id)]
    objects = [
        {
            "object_id": row,
            "x": float(box[0]),
            "y": float(box[1]),
            "w": float(box[2] - box[0]),
            "h": float(box[3] - box[1]),
            "names": [label, *(n for n, _ in nouns.most_common() if n != label)],
            "attributes": [name for name, _ in attributes.most_common()],
        }
        for row, (box, label, nouns, attributes) in enumerate(
            zip(graph.boxes, graph.labels, graph.nouns, graph.attributes, strict=True)
        )
    ]
    relationships = [
        {
            "relationship_id": at,
            "subject_id": subject,
            "predicate": predicate,
            "object_id": target,
            "evidence": [_stated(captions[words.caption], words) for words in evidence],
        }
        for at, ((subject, predicate, target), evidence) in enumerate(
            zip(graph.relations, graph.evidence, strict=True)
        )
    ]
    entry = {"image_id": image_id, "objects": objects, "relationships": relationships}
    return entry, graph.size


def _stated(words: tuple[str, ...], evidence: Evidence) -> dict[str, object]:
    """Return the caption that states a relation, and where."""
    return {
        "caption": evidence.caption,
        "text": " ".join(words),
        "subject": evidence.subject,
        "predicate": list(evidence.predicate),
        "object": evidence.object,
    }
