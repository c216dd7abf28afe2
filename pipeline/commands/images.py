"""Commands for images: ``detect``, ``evaluate-detections``, ``photo``, ``scenes``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from features.commands import Program, fitted, next_steps, note
from features.drawing import facts, strongest, whole_image, with_kinds
from features.errors import UsageError
from features.records import Detections
from features.store import open_store
from pipeline.detect import detect as detect_objects
from pipeline.vision import (
    create_detector,
    create_relations,
    read_image,
    resolve_relations,
    rules_for,
)

app = Program("python -m pipeline", plugins=True)

Photos = Annotated[list[str], typer.Argument(metavar="PHOTO", help="Image files.")]
DetectorName = Annotated[str, typer.Option(metavar="NAME", help="Name of the detector.")]
DetectionsPath = Annotated[
    str | None, typer.Option(metavar="PATH", help="File or folder that the detector reads.")
]


@app.command("detect")
def detect(
    photos: Photos,
    detector: DetectorName = "labelled",
    detections: DetectionsPath = None,
    max_objects: Annotated[int, typer.Option(metavar="N", help="Objects kept per photo.")] = 100,
    relations: Annotated[
        str,
        typer.Option(metavar="NAME", help="Relation predictor; auto: the detector's default."),
    ] = "auto",
    draw: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="PNG or SVG to write; a folder for several photos."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per photo, with all objects."),
    ] = False,
) -> None:
    """Detect objects and relations in photos.

    Prints boxes (xyxy pixels), labels, attributes and scores of what --draw draws: objects and
    relations that are more likely right than wrong.
    """
    if max_objects < 1:
        raise UsageError(f"--max-objects must be at least 1, not {max_objects}.")
    chosen = create_detector(detector, path=detections)
    predictor = create_relations(resolve_relations(relations, chosen))
    for photo in photos:
        (found,) = detect_objects([photo], chosen, max_objects)
        links, scores = predictor.predict(found, 25)
        found = dataclasses.replace(
            found,
            relations=links,
            relation_scores=scores,
            relations_shown=getattr(predictor, "shown", 0.0),
        )
        if draw is not None:
            _draw(photo, found, draw / f"{Path(photo).stem}.png" if len(photos) > 1 else draw)
        if as_json:
            typer.echo(_json(photo, found))
            continue
        heading, *lines = _table(photo, found)
        typer.echo(heading)  # whole, as a long path would push out what follows
        for line in lines:
            typer.echo(fitted(line))
    if not as_json and draw is None:
        same = ["--detector", detector] if detector != "labelled" else []
        same += ["--detections", detections] if detections else []
        out = f"{Path(photos[0]).stem}-graph.png"
        next_steps(["detect", photos[0], *same, "--draw", out])


def _draw(photo: str, found: Detections, path: Path) -> None:
    from features.drawing import draw_graph  # loads matplotlib

    draw_graph(read_image(photo), found, path)


def _json(photo: str, found: Detections) -> str:
    attributes = found.attributes or ((),) * len(found.labels)
    sure = found.attribute_scores or tuple((1.0,) * len(names) for names in attributes)
    objects = [
        {
            "label": label,
            "score": round(float(score), 4),
            "box": [round(float(side), 2) for side in box],
            "attributes": [[name, round(p, 4)] for name, p in zip(*some, strict=True)],
        }
        for box, label, score, some in zip(
            found.boxes, found.labels, found.scores, zip(attributes, sure, strict=True), strict=True
        )
    ]
    scores = found.relation_scores
    relations = [
        [*relation, 1.0 if scores is None else round(float(scores[row]), 4)]
        for row, relation in enumerate(found.relations or ())
    ]
    document = {
        "photo": photo,
        "size": list(found.size),
        "shown_from": {"objects": found.shown, "relations": found.relations_shown},
        "objects": objects,
        "relations": relations,
    }
    return json.dumps(document, ensure_ascii=False)


def _table(photo: str, found: Detections) -> list[str]:
    """Return a line for each object and relation that a drawing shows, best first."""
    found = with_kinds(found)
    chosen = strongest(found)
    rest = len(found.labels) - len(chosen.objects) - len(chosen.everywhere)
    count = len(chosen.objects)
    objects = "1 object" if count == 1 else f"{count} objects"
    lines = [f"{photo}: {found.size[0]} x {found.size[1]}, {objects}"]
    for row in sorted(chosen.objects):
        box = " ".join(f"{side:7.1f}" for side in found.boxes[row])
        names = ", ".join((found.attributes or {row: ()})[row])
        name = f"{found.labels[row]} ({names})" if names else found.labels[row]
        lines.append(f"  {found.scores[row]:.2f} {box}  {name}")
    if everywhere := whole_image(found, chosen):
        lines.append(f"  {everywhere}")
    elif not count and (guesses := _best(found)):
        lines.append(f"  none reaches confidence {found.shown:.2f}; the best: {guesses}")
    merged = {fact.row: fact for fact in facts(found)}
    for row in chosen.relations:
        fact = merged[row]
        words = f"{fact.subject} - {fact.predicate} - {fact.object}"
        lines.append(f"  {fact.score:.2f} {fact.times}{words}")
    left = [_left_out(rest, "object", found.shown, "covered by another one")]
    links = len(found.relations or ())
    said = sum(merged[row].count for row in chosen.relations)
    left.append(
        _left_out(links - said, "relation", found.relations_shown, "between objects left out")
    )
    lines += [f"  {line}" for line in left if line]
    if any(left):
        lines.append("  --json prints all")
    return lines


def _best(found: Detections, count: int = 3) -> str:
    """Return the labels of the highest scores, such as "0.45 orange, 0.23 sky"."""
    best: dict[str, float] = {}
    for label, score in zip(found.labels, found.scores, strict=True):
        best[label] = max(best.get(label, 0.0), float(score))
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]
    return ", ".join(f"{score:.2f} {label}" for label, score in ranked if score >= 0.1)


def _left_out(count: int, what: str, least: float, other: str) -> str:
    """Return how many objects or relations are not printed and why; nothing if all are."""
    if not count:
        return ""
    below = f"below confidence {least:.2f} or " if least else ""
    return f"{count} more {what}{'s' if count > 1 else ''} {below}{other}"


@app.command("evaluate-detections")
def evaluate(
    detector: DetectorName = "labelled",
    detections: DetectionsPath = None,
    images_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the images.")
    ] = None,
    coco: Annotated[
        str | None, typer.Option(metavar="JSON", help="Instances file of COCO: AP and AP50.")
    ] = None,
    entities: Annotated[
        str | None, typer.Option(metavar="DIR", help="Flickr30k Entities: recall of gold boxes.")
    ] = None,
    graphs: Annotated[
        str | None, typer.Option(metavar="JSON", help="Scene graph file: recall of relations.")
    ] = None,
    relations: Annotated[
        str, typer.Option(metavar="NAME", help="Relation predictor that --graphs evaluates.")
    ] = "prior",
    table: Annotated[
        str | None, typer.Option(metavar="NPZ", help="Table of fit-relations for the prior.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a detector or a relation predictor.

    Detectors: COCO AP and the recall of Flickr30k Entities' boxes. Predictors: recall of the
    relations of a scene graph file.
    """
    # loads the readers of other formats
    from features.convert import SceneGraphFile
    from pipeline.evaluation import coco_ap, entities_recall, predicate_quality

    if not (coco or entities or graphs):
        raise UsageError("nothing to evaluate: pass --coco, --entities or --graphs.")
    if (coco or entities) and not images_dir:
        raise UsageError("--coco and --entities need --images-dir.")
    rows: dict[str, object] = {}
    if images_dir and (coco or entities):
        chosen = create_detector(detector, path=detections)
        if coco:
            rows |= coco_ap(chosen, coco, images_dir)
        if entities:
            result = entities_recall(chosen, entities, images_dir, rules_for(chosen))
            rows |= {"images": result.images, "gold boxes": result.boxes}
            rows |= {f"box recall at {count}": share for count, share in result.recall.items()}
    if graphs:
        predictor = create_relations(relations, **({} if table is None else {"table": table}))
        quality = predicate_quality(predictor, SceneGraphFile(graphs))
        rows |= {"graphs": quality.images, "relations": quality.relations}
        rows |= {} if quality.top1 is None else {"predicate top-1": quality.top1}
        rows |= {f"relation recall@{count}": share for count, share in quality.recall.items()}
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for name, value in rows.items():
        typer.echo(f"{name:<24} " + (f"{value:.1f} %" if isinstance(value, float) else f"{value}"))


@app.command("photo")
def photo(
    photos: Photos,
    like: Annotated[
        str, typer.Option(metavar="STORE", help="Store whose plug-ins and rules are used.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="File to write.")],
    detector: Annotated[str, typer.Option(help="Detector instead of the store's.")] = "",
    detections: Annotated[str, typer.Option(help="File that the detector reads.")] = "",
    relations: Annotated[str, typer.Option(help="Relation predictor instead of the store's.")] = "",
    features: Annotated[str, typer.Option(help="Feature extractor instead of the store's.")] = "",
) -> None:
    """Compute graphs of photos for a store.

    Writes graphs and features as npz, for models.search.
    """
    # loads readers of packed features, which the other commands do not need
    from features.format import write_photos
    from pipeline.vision import recipe_of

    recipe = recipe_of(
        open_store(like),
        detector=detector,
        detections=detections,
        relations=relations,
        features=features,
    )
    found = [recipe.photo(path) for path in photos]
    write_photos(out, found, recipe.notes, dtype=recipe.dtype)
    for one in found:
        objects, links = len(one.found.labels), len(one.found.relations or ())
        typer.echo(f"{one.name}: {objects} objects, {links} relations")
    for line in recipe.notes:
        note(line)
    next_steps(["show", like])


@app.command("scenes")
def scenes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to.")],
    images: Annotated[int, typer.Option(metavar="N", help="Number of scenes.")] = 40,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the scenes.")] = 0,
) -> None:
    """Render scenes with captions, to try things out without photos of your own.

    Writes FOLDER/photos, FOLDER/captions.csv and FOLDER/new.jpg, a scene without captions.
    """
    from pipeline.demo import make_folder  # loads the renderer

    make_folder(folder, images, seed)
    typer.echo(f"{folder}: {images} scenes in photos, {5 * images} captions in captions.csv")
    photos, captions = folder / "photos", folder / "captions.csv"
    where = ["--store-dir", folder / "store", "--split-by", "80/10/10"]
    next_steps(["build", "--images-dir", photos, "--captions", captions, *where])
