"""The command ``find``: images by what their scene graphs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from features.commands.program import Program
from features.commands.terminal import fitted, next_steps
from features.errors import MissingInput
from features.finding import SOURCES, Matches, contact_sheet, find, unknown_words
from features.format import replacing
from features.store import open_store

app = Program("python -m features")
_TRIPLETS = 4  # of one image that the list shows


@app.command("find")
def find_(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder or store manifest.")],
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="'red shirt' or 'dog - catch - frisbee'; * is anything, | separates alternatives.",
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Search one split [all].")] = None,
    source: Annotated[
        Literal["captions", "images"] | None,
        typer.Option("--in", help="Search triplets of captions, or visual relations [both]."),
    ] = None,
    min_score: Annotated[
        float, typer.Option(metavar="S", help="Least score of visual objects and relations.")
    ] = 0.0,
    exact: Annotated[bool, typer.Option("--exact", help="Do not match synonyms.")] = False,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Images to show.")] = 50,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every match of these images as JSON.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Print the ids of all images found.")] = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with photos and boxes."),
    ] = None,
    images_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos, for --html.")
    ] = None,
) -> None:
    """Find images whose captions or visual relations match a query."""
    if images_dir is not None and not images_dir.is_dir():
        raise MissingInput(f"{images_dir}: there is no such folder. Check --images-dir.")
    sources = SOURCES if source is None else (source,)
    matches = find(
        open_store(store),
        query,
        split=split,
        sources=sources,
        min_score=min_score,
        synonyms=not exact,
    )
    if page is not None:
        sheet = contact_sheet(matches, images_dir, count=top)
        with replacing(page) as partial:
            partial.write_text(sheet, encoding="utf-8")
        typer.echo(page)
        _suggest(matches, store, images_dir)
        return
    if ids:
        typer.echo("\n".join(matches.image_ids()))
    elif as_json:
        typer.echo(json.dumps(_found(matches, top), indent=2, ensure_ascii=False))
    else:
        for line in _lines(matches, top):
            typer.echo(fitted(line))
        if not len(matches) and (words := unknown_words(matches.store, matches.query)):
            named = ", ".join(map(repr, words))
            typer.echo(f"note: no caption or image of this store has {named}", err=True)
        _suggest(matches, store, images_dir, query)


def _suggest(matches: Matches, store: Path, images_dir: Path | None, query: str = "") -> None:
    """Write what to run next: the page of the query, and the drawing of the best image."""
    photos = ["--images-dir", images_dir] if images_dir is not None else []
    found = matches.image_ids()[:1]
    steps: list[list[object]] = []
    if found and query:
        steps.append(["find", store, query, "--html", "found.html", *photos])
    steps += [["draw", store, one, "--out", f"{Path(one).stem}.png", *photos] for one in found]
    next_steps(*steps, *([] if found else [["show", store]]))


def _found(matches: Matches, top: int) -> list[dict[str, Any]]:
    """Return the first images with their matches."""
    shown = np.isin(matches.image, matches.images[:top])
    text = matches.table()[shown].to_json(orient="records", double_precision=6)
    found: list[dict[str, Any]] = json.loads(text)
    return found


def _lines(matches: Matches, top: int) -> list[str]:
    index = matches.store.group("index")
    ids, texts = index.text("image_id"), index.text("caption")
    lines: list[str] = []
    of_image: dict[int, list[int]] = {row: [] for row in matches.images[:top].tolist()}
    for at, row in enumerate(matches.image.tolist()):
        if row in of_image:
            of_image[row].append(at)
    for row, facts in of_image.items():
        lines.append(ids[row])
        for at in facts[:_TRIPLETS]:
            words = (matches.subject_name[at], matches.predicate[at], matches.object_name[at])
            fact = " - ".join(filter(None, words))
            caption = int(matches.caption[at])
            seen = f"detected, {matches.score[at]:.2f}"
            lines.append(f"  {fact:<28}  {texts[caption] if caption >= 0 else seen}")
        if len(facts) > _TRIPLETS:
            lines.append(f"  ... {len(facts) - _TRIPLETS} more")
    found = len(matches.images)
    first = f"; the first {top} above, --ids prints all" if found > top else ""
    return [*lines, f"{found:,} images, {len(matches):,} matches{first}"]
