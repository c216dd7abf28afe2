"""Evaluation of detectors and relation predictors: COCO AP, box recall, relation recall.

All measures apply to what the pipeline would store.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.convert import EntitiesFolder, Source, read_json
from features.errors import InputError, MissingDependency, UsageError
from features.records import Detections
from pipeline.detect import detect
from pipeline.vision import Detector, GraphRules, RelationPredictor, apply_rules, iou_matrix

MATCH = 0.5  # IoU from which a gold box counts as found


@dataclass(frozen=True, slots=True)
class BoxRecall:
    """Percentage of gold boxes found at IoU 0.5, by the number of stored boxes."""

    images: int
    boxes: int
    recall: dict[int, float]


@dataclass(frozen=True, slots=True)
class PredicateQuality:
    """Agreement of a relation predictor with the relations of a graph file, in percent.

    Attributes:
        images, relations: how many were evaluated.
        top1: related pairs whose first predicate is the file's, given boxes, labels and pairs; None
            if the predictor has no method ``classify``.
        recall: K -> mean over the images of the relations (subject, predicate, object) among the
            first K predicted, given boxes and labels.
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
        detector: a detector with COCO's labels.
        annotations: an instances_*.json file of COCO.
        images_dir: folder of its images.
        max_objects: boxes kept per image.

    Raises:
        MissingDependency: pycocotools is not installed.
        InputError: not an instances file, or no detection has one of its labels.
    """
    try:
        from pycocotools.coco import COCO  # optional
        from pycocotools.cocoeval import COCOeval  # optional
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
        raise InputError(f"{annotations}: no detection has one of its labels.")
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
    """Return the recall of gold boxes among the boxes that the rules would keep.

    Args:
        gold: (n, 4) boxes of each image.   found: detections of the same images.
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
    """Return the recall of Flickr30k Entities' gold boxes on the images of a folder.

    Args:
        detector: the detector.   folder: contains ``Annotations``.
        images_dir: folder of the images.   rules: the graph rules.   counts: numbers of boxes.

    Raises: UsageError: no image of the folder has annotations.
    """
    root = Path(folder)
    source = EntitiesFolder(root / "Annotations" if (root / "Annotations").is_dir() else root)
    known = [name for name in source.ids() if (Path(images_dir) / name).is_file()]
    if not known:
        raise UsageError(
            f"{images_dir}: none of the images annotated in {folder} is in this folder."
        )
    gold = (source.read(name).boxes for name in known)
    found = (detect([Path(images_dir) / name], detector, 10_000)[0] for name in known)
    return box_recall(gold, found, rules, counts)


def predicate_quality(
    predictor: RelationPredictor,
    graphs: Source,
    ids: Sequence[str] | None = None,
    counts: Sequence[int] = (25, 50, 100),
) -> PredicateQuality:
    """Evaluate a relation predictor on the graphs of a file.

    Args:
        predictor: the predictor; its optional method ``classify(found, pairs)`` is evaluated too.
        graphs: reader of a graph file.
        ids: images to use; None: all.
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
        raise UsageError("none of these graphs has a relation, so there is nothing to evaluate.")
    return PredicateQuality(
        images,
        total,
        None if classify is None else 100 * right / total,
        {count: 100 * float(np.mean(values)) for count, values in shares.items()},
    )
