"""Scene graphs out of a store: LGSGM's three files, Scene-Graph-Benchmark's two."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from features.convert.readers.scene_graphs import write_scene_graphs
from features.convert.readers.sgb import BACKGROUND, INFO, PREDICTION, write_predictions
from features.convert.writers.outputs import Outputs
from features.errors import UsageError
from features.records import SceneGraph

if TYPE_CHECKING:
    from features.store import Store

__all__ = ["export_lgsgm", "export_sgb"]


def _graphs(store: Store, splits: list[str] | None) -> Iterator[tuple[str, SceneGraph]]:
    ids = _image_ids(store, splits)
    return ((image_id, store.graph(image_id)) for image_id in ids)


def _image_ids(store: Store, splits: list[str] | None) -> list[str]:
    if not store.has("labels"):
        raise UsageError(f"{store.path}: no scene graphs; build the stage visual.")
    images = store.images
    if splits:
        rows = [row for split in splits for row in store.image_rows(split).tolist()]
        images = images[images["row"].isin(rows)]
    return [str(key) for key in images["id"]]


def export_sgb(
    store: Store,
    target: Path | str,
    *,
    splits: list[str] | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write ``custom_prediction.json`` and ``custom_data_info.json``; return notes.

    ``rel_all_scores`` has the score of the stored predicate only; the store keeps no others.
    In this format 0 is ``__background__``, "no relation" and nothing else: an object without a
    label is background, a relation without a predicate is left out.

    Raises: UsageError: no scene graphs, or two images whose names would be one.
    """
    ids = _image_ids(store, splits)
    files = _file_names(store, ids)
    left = {"objects": 0, "relations": 0}

    def named() -> Iterator[tuple[str, SceneGraph]]:
        for file, key in zip(files, ids, strict=True):
            graph = store.graph(key)
            left["objects"] += graph.labels.count("")
            left["relations"] += sum(not name for _, name, _ in graph.relations)
            yield file, _named(graph)

    classes = [name for name in store.coded("labels").names if name]
    predicates = [name for name in store.coded("predicates").names if name]
    with Outputs(target, overwrite=overwrite) as out:
        predictions, info = out.path(PREDICTION), out.path(INFO)
        write_predictions(predictions, info, named(), classes, predicates)
    notes = ["rel_all_scores has only the score of the predicate that the store keeps."]
    if left["objects"]:
        notes.append(f"{left['objects']} objects without a label became {BACKGROUND}.")
    if left["relations"]:
        notes.append(f"{left['relations']} relations without a predicate were left out.")
    if files != ids:
        notes.append("Images of several folders share file names: FOLDER/NAME became FOLDER_NAME.")
    return notes


def _named(graph: SceneGraph) -> SceneGraph:
    kept = [at for at, (_, name, _) in enumerate(graph.relations) if name]
    return dataclasses.replace(
        graph,
        labels=tuple(name or BACKGROUND for name in graph.labels),
        relations=tuple(graph.relations[at] for at in kept),
        relation_scores=graph.relation_scores[kept],
        union_boxes=graph.union_boxes[kept],
    )


def _file_names(store: Store, ids: list[str]) -> list[str]:
    """Return names that stay apart without their folders, which readers of the format drop."""

    def bare(names: list[str]) -> set[str]:
        return {PurePosixPath(name.replace("\\", "/")).name for name in names}

    if len(bare(ids)) == len(ids):
        return ids
    flat = [re.sub(r"[/\\]", "_", key) for key in ids]
    if len(bare(flat)) < len(flat):
        raise UsageError(f"{store.path}: file names of several images would be one. Rename them.")
    return flat


def export_lgsgm(
    store: Store,
    target: Path | str,
    *,
    splits: list[str] | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write ``images_data.json`` and, from parsed captions, ``caps_data.json``; return notes.

    ``image_caption_matching.json`` lists the caption ids of every image.
    """
    ids = _image_ids(store, splits)
    with_text = store.has("relation_predicate")
    with Outputs(target, overwrite=overwrite) as out:
        graphs, matching = out.path("images_data.json"), out.path("image_caption_matching.json")
        captions_path = out.path("caps_data.json") if with_text else None
        if captions_path is None:
            out.absent("caps_data.json")  # captions of another store
        write_scene_graphs(graphs, _graphs(store, splits))
        captions = store.captions
        captions = captions[captions["image"].isin(ids)]
        of_image: dict[str, list[str]] = {key: [] for key in ids}
        for key, image in zip(captions["id"], captions["image"], strict=True):
            of_image[image].append(key)
        matching.write_text(json.dumps(of_image), encoding="utf-8")
        if captions_path is not None:
            with captions_path.open("w", encoding="utf-8") as file:
                file.write("{")
                for at, (key, text) in enumerate(
                    zip(captions["id"], captions["text"], strict=True)
                ):
                    entry = {"sent": text, "rels": [list(t) for t in store.text(key).triplets]}
                    file.write(f"{',' if at else ''}\n{json.dumps(key)}: {json.dumps(entry)}")
                file.write("\n}\n")
    return [] if with_text else ["No caps_data.json: the store has no triplets."]
