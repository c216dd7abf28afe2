"""How good are detections and predicates: COCO AP, recall of Entities boxes, predicate recall.

Each measure runs what the pipeline would store, so that its numbers speak about the store.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.convert.safe.json_files import read_json
from features.convert.source import Source
from features.errors import InputError, MissingDependency, UsageError
from features.records import Detections
from pipeline.detect import Detector, detect
from pipeline.vision.boxes import iou_matrix
from pipeline.vision.graph_builder import GraphRules, apply_rules
from pipeline.vision.relations import RelationPredictor

__all__ = [
    "BoxRecall",
    "PredicateQuality",
    "box_recall",
    "coco_ap",
    "entities_recall",
    "predicate_quality",
]

MATCH = 0.5  # IoU at which a box counts as found


@dataclass(frozen=True, slots=True)
class BoxRecall:
    """Share of gold boxes that some stored box matches at IoU 0.5, per number of stored boxes."""

    images: int
    boxes: int
    recall: dict[int, float]


@dataclass(frozen=True, slots=True)
class PredicateQuality:
    """How well a predictor finds the relations of a graph file.

    Attributes:
        images, relations: how many were judged.
        top1: share of related pairs whose first predicate is the file's, boxes, labels and pairs
            given; None when the predictor cannot be asked about a pair.
        recall: K -> mean over images of the share of whole relations (subject, predicate, object)
            among the first K predicted, boxes and labels given.
    """

    images: int
    relations: int
    top1: float | None
    recall: dict[int, float]


def coco_ap(
    detector: Detector, annotations: Path | str, images_dir: Path | str, max_objects: int = 100
) -> dict[str, float]:
    """Return AP at IoU .5:.95 and AP50 as pycocotools computes them, in percent.

    Args:
        detector: with COCO's class names.
        annotations: an instances_*.json of COCO.
        images_dir: folder of the pictures that it names.
        max_objects: boxes kept per image.

    Raises:
        MissingDependency: pycocotools is not installed.
        InputError: the file is not of COCO's form, or no class name fits.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingDependency.of("pycocotools", "COCO AP", "pip install pycocotools") from error
    document = read_json(Path(annotations))
    if not isinstance(document, dict) or not {"images", "annotations", "categories"} <= set(
        document
    ):
        raise InputError(f"{annotations}: not an instances file of COCO.")
    category = {item["name"]: item["id"] for item in document["categories"]}
    results = []
    for image in document["images"]:
        (found,) = detect([Path(images_dir) / image["file_name"]], detector, max_objects)
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
            if label in category:
                x1, y1, x2, y2 = map(float, box)
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": float(score),
                    }
                )
    if not results:
        raise InputError(f"{annotations}: no detection has one of its class names.")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": 100 * float(evaluation.stats[0]), "AP50": 100 * float(evaluation.stats[1])}


def box_recall(
    gold: Iterable[np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    found: Iterable[Detections],
    rules: GraphRules,
    counts: Sequence[int] = (10, 36, 100),
) -> BoxRecall:
    """Return the recall of gold boxes by the boxes that the rules would store.

    Args:
        gold: (n, 4) boxes of each image.   found: raw detections of the same images.
        rules: the graph rules; ``max_objects`` is replaced by each of ``counts``.
        counts: numbers of stored boxes.
    """
    hits = dict.fromkeys(counts, 0)
    total = images = 0
    for boxes, raw in zip(gold, found, strict=True):
        images += 1
        total += len(boxes)
        for count in counts:
            stored = apply_rules(raw, replace(rules, max_objects=count)).boxes
            if len(boxes) and len(stored):
                hits[count] += int((iou_matrix(boxes, stored).max(1) >= MATCH).sum())
    return BoxRecall(images, total, {k: 100 * hit / max(total, 1) for k, hit in hits.items()})


def entities_recall(
    detector: Detector,
    folder: Path | str,
    images_dir: Path | str,
    rules: GraphRules,
    counts: Sequence[int] = (10, 36, 100),
) -> BoxRecall:
    """Return the recall of Flickr30k Entities' gold boxes on all pictures that are there.

    Args:
        detector: what to judge.   folder: holds ``Annotations``.
        images_dir: folder of the pictures.   rules: the graph rules.   counts: numbers of boxes.

    Raises: UsageError: no picture of the folder has annotations.
    """
    from features.convert.readers.entities import EntitiesFolder

    root = Path(folder)
    source = EntitiesFolder(root / "Annotations" if (root / "Annotations").is_dir() else root)
    known = [name for name in source.ids() if (Path(images_dir) / name).is_file()]
    if not known:
        raise UsageError(f"{images_dir}: none of the pictures that {folder} annotates is here.")
    gold = (source.read(name).boxes for name in known)
    found = (detect([Path(images_dir) / name], detector, 10_000)[0] for name in known)
    return box_recall(gold, found, rules, counts)


def predicate_quality(
    predictor: RelationPredictor,
    graphs: Source,
    ids: Sequence[str] | None = None,
    counts: Sequence[int] = (25, 50, 100),
) -> PredicateQuality:
    """Judge a relation predictor on graphs that hold relations.

    Args:
        predictor: what to judge; with a method ``classify(found, pairs)`` the predicates of given
            pairs are judged too.
        graphs: a reader of graph files.
        ids: images to judge; None takes all.
        counts: numbers of predicted relations.
    """
    classify = getattr(predictor, "classify", None)
    right = total = images = 0
    shares: dict[int, list[float]] = {count: [] for count in counts}
    for image_id in graphs.ids() if ids is None else ids:
        found = graphs.read(image_id)
        truth = found.relations or ()
        if not truth:
            continue
        images += 1
        total += len(truth)
        plain = replace(found, relations=None, relation_scores=None)
        if classify is not None:
            first = classify(plain, [(s, o) for s, _, o in truth])
            right += sum(a == p for a, (_, p, _) in zip(first, truth, strict=True))
        predicted, _ = predictor.predict(plain, max(counts))
        for count in counts:
            shares[count].append(len(set(truth) & set(predicted[:count])) / len(set(truth)))
    if not images:
        raise UsageError("none of these graphs has a relation; there is nothing to judge.")
    return PredicateQuality(
        images,
        total,
        None if classify is None else 100 * right / total,
        {count: 100 * float(np.mean(values)) for count, values in shares.items()},
    )
