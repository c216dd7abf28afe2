"""Write scene graphs: LGSGM's three files, Scene-Graph-Benchmark's two."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from features.convert.readers.sgb import BACKGROUND, INFO, PREDICTION
from features.convert.writers.outputs import Outputs, of_splits
from features.errors import UsageError
from features.records import SceneGraph

if TYPE_CHECKING:
    from features.store import Store


def _image_ids(store: Store, splits: list[str] | None) -> list[str]:
    if not store.has("labels"):
        raise UsageError(f"{store.path}: no scene graphs; build the stage visual.")
    return [str(key) for key in of_splits(store, store.images, splits)["id"]]


def export_sgb(store: Store, out: Outputs, splits: list[str] | None) -> list[str]:
    """Write ``custom_prediction.json`` and ``custom_data_info.json``; return notes.

    ``rel_all_scores`` has the score of the stored predicate only; the store keeps no others. In
    this format 0 is ``__background__`` or "no relation": an object without a label becomes
    background, a relation without a predicate is left out.

    Raises: UsageError: no scene graphs, or two images with the same file name.
    """
    ids = _image_ids(store, splits)
    files = _file_names(store, ids)
    unlabelled = unrelated = 0
    classes, predicates = (
        [BACKGROUND, *(name for name in store.coded(column).names if name not in ("", BACKGROUND))]
        for column in ("labels", "predicates")
    )
    class_of = {name: at for at, name in enumerate(classes)} | {"": 0}
    predicate_of = {name: at for at, name in enumerate(predicates)}
    predictions, info = out.path(PREDICTION), out.path(INFO)
    with predictions.open("w", encoding="utf-8") as file:
        file.write("{")
        for at, key in enumerate(ids):
            graph = store.graph(key)
            kept = [row for row, (_, name, _) in enumerate(graph.relations) if name]
            unlabelled += graph.labels.count("")
            unrelated += len(graph.relations) - len(kept)
            codes = [predicate_of[graph.relations[row][1]] for row in kept]
            scores = graph.relation_scores[kept]
            every = np.zeros((len(kept), len(predicate_of)), np.float32)
            every[np.arange(len(kept)), codes] = scores
            entry = {
                "bbox": graph.boxes.tolist(),
                "bbox_labels": [class_of[name or BACKGROUND] for name in graph.labels],
                "bbox_scores": graph.scores.tolist(),
                "rel_pairs": [[graph.relations[row][0], graph.relations[row][2]] for row in kept],
                "rel_labels": codes,
                "rel_scores": scores.tolist(),
                "rel_all_scores": every.tolist(),
            }
            file.write(f'{", " if at else ""}"{at}": {json.dumps(entry)}')
        file.write("}\n")
    names = {"idx_to_files": files, "ind_to_classes": classes, "ind_to_predicates": predicates}
    info.write_text(json.dumps(names), encoding="utf-8")
    notes = ["rel_all_scores has the score of the stored predicate only."]
    if unlabelled:
        notes.append(f"{unlabelled} objects without a label became {BACKGROUND}.")
    if unrelated:
        notes.append(f"{unrelated} relations without a predicate were left out.")
    if files != ids:
        notes.append("Images of several folders share file names: FOLDER/NAME became FOLDER_NAME.")
    return notes


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


def export_lgsgm(store: Store, out: Outputs, splits: list[str] | None) -> list[str]:
    """Write ``images_data.json`` and, from parsed captions, ``caps_data.json``; return notes.

    ``image_caption_matching.json`` lists the caption ids of every image.
    """
    ids = _image_ids(store, splits)
    with_text = store.has("relation_predicate")
    graphs, matching = out.path("images_data.json"), out.path("image_caption_matching.json")
    captions_path = out.path("caps_data.json") if with_text else None
    if captions_path is None:
        out.absent("caps_data.json")  # it would have captions of another store
    _write_entries(graphs, ((key, _entry(store.graph(key))) for key in ids))
    captions = store.captions
    captions = captions[captions["image"].isin(ids)]
    of_image: dict[str, list[str]] = {key: [] for key in ids}
    for key, image in zip(captions["id"], captions["image"], strict=True):
        of_image[image].append(key)
    matching.write_text(json.dumps(of_image), encoding="utf-8")
    if captions_path is None:
        return ["No caps_data.json: the store has no triplets."]
    texts = zip(captions["id"], captions["text"], strict=True)
    _write_entries(
        captions_path,
        ((key, {"sent": text, "rels": store.text(key).triplets}) for key, text in texts),
    )
    return []


def _entry(graph: SceneGraph) -> dict[str, object]:
    ends = [f"{label}:{row}" for row, label in enumerate(graph.labels)]
    return {
        "labels": list(graph.labels),
        "bbox": graph.boxes.tolist(),
        "rels": [[ends[s], predicate, ends[o]] for s, predicate, o in graph.relations],
    }


def _write_entries(path: Path, entries: Iterable[tuple[str, dict[str, object]]]) -> None:
    """Write a JSON object, one entry per line."""
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for at, (key, entry) in enumerate(entries):
            file.write(f"{',' if at else ''}\n{json.dumps(key)}: {json.dumps(entry)}")
        file.write("\n}\n")
