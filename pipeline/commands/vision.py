"""Commands of ``python -m pipeline`` about pictures: detect, evaluate-detections, fit-relations."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from features.errors import UsageError
from features.records import Detections

__all__ = ["add_commands"]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this module's commands to the parser of ``python -m pipeline``."""
    add = commands.add_parser("detect", help="objects in photos", description=_detect.__doc__)
    add.add_argument("photos", nargs="+", metavar="PHOTO")
    _add_detector(add)
    add.add_argument("--max-objects", type=int, default=100)
    add.add_argument("--relations", metavar="NAME", help="relations to draw (default: none)")
    add.add_argument("--draw", metavar="OUT", help="PNG or SVG; several photos: OUT is a folder")
    add.add_argument("--json", action="store_true", help="one JSON object per photo")
    add.set_defaults(run=_detect)

    add = commands.add_parser(
        "evaluate-detections", help="quality of boxes and predicates", description=_evaluate.__doc__
    )
    _add_detector(add)
    add.add_argument("--images-dir", help="folder of the pictures")
    add.add_argument("--coco", metavar="JSON", help="instances file: AP and AP50")
    add.add_argument("--entities", metavar="DIR", help="Flickr30k Entities: recall of gold boxes")
    add.add_argument("--graphs", metavar="JSON", help="scene graphs: predicate recall@K")
    add.add_argument("--relations", default="prior", help="predictor judged by --graphs")
    add.add_argument("--table", help="table of fit-relations for --relations prior")
    add.add_argument("--json", action="store_true")
    add.set_defaults(run=_evaluate)

    add = commands.add_parser(
        "fit-relations", help="fit the predicate prior", description=_fit.__doc__
    )
    add.add_argument("out", metavar="OUT.npz")
    source = add.add_mutually_exclusive_group(required=True)
    source.add_argument("--graphs", nargs="+", metavar="JSON", help="scene graph files")
    source.add_argument("--store", help="a store: the triplets of its captions, without geometry")
    add.add_argument("--about", default="", help="a line that says what the graphs are")
    add.set_defaults(run=_fit)


def _add_detector(add: argparse.ArgumentParser) -> None:
    add.add_argument("--detector", default="nanodet", help="registered name (default: nanodet)")
    add.add_argument("--detections", help="file or folder that the detector reads")


def _detect(options: argparse.Namespace) -> int:
    """Detect objects in photos and print boxes (xyxy pixels), labels and scores."""
    from pipeline.detect import create_detector, detect
    from pipeline.vision.relations import create_relations

    if options.max_objects < 1:
        raise UsageError(f"--max-objects {options.max_objects}: at least 1.")
    detector = create_detector(options.detector, path=options.detections)
    relations = create_relations(options.relations) if options.relations else None
    for photo in options.photos:
        (found,) = detect([photo], detector, options.max_objects)
        if relations is not None:
            links, scores = relations.predict(found, 25)
            found = dataclasses.replace(found, relations=links, relation_scores=scores)
        if options.draw:
            _draw(photo, found, Path(options.draw), several=len(options.photos) > 1)
        if options.json:
            _write(json.dumps(_as_json(photo, found), ensure_ascii=False))
            continue
        _write(f"{photo}: {found.size[0]} x {found.size[1]}, {len(found.labels)} objects")
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
            _write(f"  {score:.2f}  {label:<16} " + " ".join(f"{value:7.1f}" for value in box))
        for subject, predicate, target in found.relations or ():
            _write(
                f"  {found.labels[subject]}:{subject} {predicate} {found.labels[target]}:{target}"
            )
    return 0


def _draw(photo: str, found: Detections, out: Path, *, several: bool) -> None:
    from features.drawing.scene_graph import draw_graph
    from pipeline.vision.images import read_image

    path = out / f"{Path(photo).stem}.png" if several else out
    draw_graph(read_image(photo), found, path)


def _evaluate(options: argparse.Namespace) -> int:
    """Judge a detector (COCO AP, recall of Entities boxes) or a relation predictor (graphs)."""
    from pipeline.detect import create_detector
    from pipeline.evaluation.detections import coco_ap, entities_recall, predicate_quality
    from pipeline.vision.relations import create_relations
    from pipeline.vision.visual import rules_for

    if not (options.coco or options.entities or options.graphs):
        raise UsageError("nothing to judge: give --coco, --entities or --graphs.")
    if (options.coco or options.entities) and not options.images_dir:
        raise UsageError("--coco and --entities need --images-dir.")
    rows: dict[str, object] = {}
    if options.coco or options.entities:
        detector = create_detector(options.detector, path=options.detections)
    if options.coco:
        rows |= coco_ap(detector, options.coco, options.images_dir)
    if options.entities:
        rules = rules_for(detector)
        result = entities_recall(detector, options.entities, options.images_dir, rules)
        rows |= {"images": result.images, "gold boxes": result.boxes}
        rows |= {f"box recall at {count}": share for count, share in result.recall.items()}
    if options.graphs:
        from features.convert.readers.scene_graphs import SceneGraphFile

        extra = {} if options.table is None else {"table": options.table}
        predictor = create_relations(options.relations, **extra)
        quality = predicate_quality(predictor, SceneGraphFile(options.graphs))
        rows |= {"graphs": quality.images, "relations": quality.relations}
        rows |= {} if quality.top1 is None else {"predicate top-1": quality.top1}
        rows |= {f"relation recall@{count}": share for count, share in quality.recall.items()}
    if options.json:
        _write(json.dumps(rows))
    else:
        for name, value in rows.items():
            _write(f"{name:<24} " + (f"{value:.1f} %" if isinstance(value, float) else f"{value}"))
    return 0


def _fit(options: argparse.Namespace) -> int:
    """Fit P(predicate | labels, geometry) for --relations prior."""
    from pipeline.vision.prior import Graph, fit_prior

    graphs: list[Graph] = []
    if options.store:
        from features import open_store

        store = open_store(options.store)
        for caption_id in store.captions["id"]:
            text = store.text(caption_id)
            graphs.append(Graph(text.objects, text.relations))
    else:
        from features.convert.readers.scene_graphs import SceneGraphFile

        for path in options.graphs:
            source = SceneGraphFile(path)
            for image_id in source.ids():
                found = source.read(image_id)
                graphs.append(Graph(found.labels, found.relations or (), found.boxes))
    table = fit_prior(graphs, options.about)
    table.save(options.out)
    related = int(table.counts.sum())
    _write(
        f"{options.out}: {len(graphs):,} graphs, {related:,} relations, "
        f"{len(table.predicates)} predicates, {len(table.labels)} labels"
    )
    return 0


def _as_json(photo: str, found: Detections) -> dict[str, object]:
    return {
        "photo": photo,
        "size": list(found.size),
        "objects": [
            {
                "label": label,
                "score": round(float(score), 4),
                "box": [round(float(v), 2) for v in b],
            }
            for b, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
        ],
        "relations": [list(relation) for relation in found.relations or ()],
    }


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
