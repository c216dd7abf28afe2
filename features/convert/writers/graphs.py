"""Write scene graphs: LGSGM's three files, Scene-Graph-Benchmark's two."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from features.convert.readers.scene_graphs import write_entries, write_scene_graphs
from features.convert.readers.sgb import BACKGROUND, INFO, PREDICTION, write_predictions
from features.convert.writers.outputs import Outputs, of_splits
from features.errors import UsageError
from features.records import SceneGraph

if TYPE_CHECKING:
    from features.store import Store

__all__ = ["export_lgsgm", "export_sgb"]


def _image_ids(store: Store, splits: list[str] | None) -> list[str]:
    if not store.has("labels"):
        raise UsageError(f"{store.path}: no scene graphs; build the stage visual.")
    return [str(key) for key in of_splits(store, store.images, splits)["id"]]


def export_sgb(
    store: Store,
    target: Path | str,
    *,
    splits: list[str] | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write ``custom_prediction.json`` and ``custom_data_info.json``; return notes.

    ``rel_all_scores`` has the score of the stored predicate only; the store keeps no others. In
    this format 0 is ``__background__`` or "no relation": an object without a label becomes
    background, a relation without a predicate is left out.

    Raises: UsageError: no scene graphs, or two images with the same file name.
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
    notes = ["rel_all_scores has the score of the stored predicate only."]
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
    """Return names that are distinct without folders, which readers of the format drop."""

    def bare(names: list[str]) -> set[str]:
        return {PurePosixPath(name.replace("\\", "/")).name for name in names}

    if len(bare(ids)) == len(ids):
        return ids
    flat = [re.sub(r"[/\\]", "_", key) for key in ids]
    if len(bare(flat)) < len(flat):
        raise UsageError(
            f"{store.path}: several images would have the same file name. Rename them."
        )
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
            out.absent("caps_data.json")  # it would have captions of another store
        write_scene_graphs(graphs, ((key, store.graph(key)) for key in ids))
        captions = store.captions
        captions = captions[captions["image"].isin(ids)]
        of_image: dict[str, list[str]] = {key: [] for key in ids}
        for key, image in zip(captions["id"], captions["image"], strict=True):
            of_image[image].append(key)
        matching.write_text(json.dumps(of_image), encoding="utf-8")
        if captions_path is not None:
            texts = zip(captions["id"], captions["text"], strict=True)
            write_entries(
                captions_path,
                ((key, {"sent": text, "rels": store.text(key).triplets}) for key, text in texts),
            )
    return [] if with_text else ["No caps_data.json: the store has no triplets."]
