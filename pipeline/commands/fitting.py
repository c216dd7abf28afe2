"""Commands for grounded graphs and what is fitted on them: ``ground``, ``fit-labels`` ..."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from features.commands import Program
from features.errors import UsageError
from features.store import open_store

app = Program("python -m pipeline", plugins=True)


@app.command("fit-relations")
def fit_relations(
    out: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Table to write.")],
    graphs: Annotated[
        list[str] | None, typer.Option(metavar="JSON...", help="Scene graph files.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Store whose caption triplets are counted, without geometry."),
    ] = None,
    entities: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Flickr30k Entities: relations of captions between gold boxes; with --store, only "
            "those of the store's training images.",
        ),
    ] = None,
    min_boxes: Annotated[
        int, typer.Option(help="With --entities: boxes that a noun needs to be a label.")
    ] = 60,
    min_relations: Annotated[
        int, typer.Option(help="With --entities: relations that a predicate needs.")
    ] = 40,
    about: Annotated[str, typer.Option(help="Description of the graphs.")] = "",
) -> None:
    """Fit the relation predictors 'prior' and 'fitted'.

    Writes a table of P(predicate | labels, geometry) for --relations prior:OUT.npz or, from
    Entities, --relations fitted:OUT.npz.
    """
    from features.convert import SceneGraphFile  # loads the readers
    from pipeline.grounding import (
        Grounded,  # loads the parser rules
        label_graphs,  # loads the parser rules
    )
    from pipeline.vision import LabelGraph, fit_prior  # loads the fitting code

    if bool(graphs) == bool(store or entities):
        raise UsageError("pass either --graphs, or --store, --entities or both.")
    data: list[LabelGraph] = []
    if entities:
        gold = Grounded(entities)
        ids = gold.source.ids()
        if store:
            opened = open_store(store)
            ids = opened.images["id"].iloc[opened.image_rows("train")].tolist()
        found = [gold.graph(image_id) for image_id in ids if gold.covers(image_id)]
        data += label_graphs(found, min_boxes, min_relations)
    elif store:
        opened = open_store(store)
        for caption_id in opened.captions["id"]:
            text = opened.text(caption_id)
            data.append(LabelGraph(text.objects, text.relations))
    for path in graphs or ():
        source = SceneGraphFile(path)
        for image_id in source.ids():
            known = source.read(image_id)
            data.append(LabelGraph(known.labels, known.relations or (), known.boxes))
    table = fit_prior(data, about, exact=bool(entities))
    table.save(out)
    typer.echo(
        f"{out}: {len(data):,} graphs, {int(table.counts.sum()):,} relations, "
        f"{len(table.predicates)} predicates, {len(table.labels)} labels"
    )


@app.command("fit-labels")
def fit_labels(
    store: Annotated[
        str, typer.Argument(help="Store built with --detector regions --max-objects 128.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Label head to write.")],
    entities: Annotated[
        str, typer.Option(metavar="DIR", help="Flickr30k Entities of the store's images.")
    ],
    split: Annotated[str, typer.Option(help="Split to fit on.")] = "train",
    held_out: Annotated[str, typer.Option(help="Split to measure on.")] = "val",
    min_boxes: Annotated[int, typer.Option(help="Gold boxes that a name needs.")] = 20,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 8,
    folds: Annotated[
        int,
        typer.Option(help="Heads for the training images, each fitted without a part of them."),
    ] = 0,
    about: Annotated[str, typer.Option(help="Description of the images.")] = "",
) -> None:
    """Fit labels and attributes of regions.

    Writes a label head for --labels OUT.npz. The features are those of the store; the names come
    from the captions and boxes of Entities. With --folds, graphs of the training images get their
    labels from heads that have not seen them, so that they are as sure as those of other images.
    """
    from pipeline.grounding import (
        Grounded,  # loads the parser rules
        labelled_regions,  # loads the parser rules
    )
    from pipeline.vision import FitOptions, fit_head, measure  # loads the fitting code

    opened, gold = open_store(store), Grounded(entities)
    made = opened.group("regions").manifest.params.get("parameters", {})
    extractor = made.get("features", {}).get("name", "")
    if not extractor:
        raise UsageError(f"{store} does not record its feature extractor: it was imported.")
    images = list(labelled_regions(opened, gold, split))
    if not images:
        raise UsageError(f"{entities} has no image of the split {split!r} of {store}.")
    options = FitOptions(min_boxes=min_boxes, epochs=epochs, folds=folds)
    head = fit_head(images, extractor, options, about)
    line = f"{out}: {len(images):,} images, {len(head.nouns)} nouns"
    if held_out in opened.splits:
        quality = measure(head, labelled_regions(opened, gold, held_out))
        head = dataclasses.replace(head, shown=quality.threshold)
        line += (
            f"; {held_out}: {quality.named:.1f} % of {quality.boxes:,} gold boxes are found and "
            f"named, {quality.shown:.1f} objects per image above {quality.threshold:.2f}"
        )
    head.save(out)
    typer.echo(line)


@app.command("ground")
def ground(
    entities: Annotated[
        Path, typer.Argument(metavar="DIR", help="Flickr30k Entities: Annotations and Sentences.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="File to write.")],
    parser: Annotated[str, typer.Option(help="Caption parser.")] = "spacy",
    profile: Annotated[str, typer.Option(help="Rules of triplets.")] = "spice",
) -> None:
    """Write the grounded scene graphs of Flickr30k Entities as one file.

    The layout is that of Visual Genome's scene_graphs.json, with image_data.json beside it; every
    relationship names the captions and words that state it.
    """
    from features.commands import Progress  # loads rich
    from pipeline.grounding import Grounded, write_graphs  # loads the parser rules

    gold = Grounded(entities, parser, profile)
    ids = gold.source.ids()
    with Progress("grounding", "images", len(ids)) as progress:
        images, relations = write_graphs(gold, ids, out, progress.advance)
    typer.echo(
        f"{out}: {images:,} images, {relations:,} relations; {100 * gold.counts.share:.1f} % of "
        "the triplets between phrases with boxes are grounded"
    )
