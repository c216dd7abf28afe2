"""Search a store with a trained run: ``python -m models.search STORE RUN "a man riding a horse"``.

A text finds images; ``--image`` finds captions for images of the store and for any other photo.
Texts are parsed and photos detected as those of the store were, by ``python -m pipeline`` in
another process: models need no parser and no detector.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from features.batches import ImageEncoder, caption_batch, image_batch
from features.commands import Column, Program, fitted, next_steps, note, print_table
from features.drawing import Thumbnails
from features.errors import UnknownName, UsageError
from features.format import Photo, read_photos
from features.records import TextGraph
from features.store import open_store
from models.evaluation import read_graph, stored_profile
from models.registry import reads_unions
from models.reporting import write_sheet
from models.training import Run, check_split, load_run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from features.batches import ImageBatch
    from features.store import Store

__all__ = [
    "app",
    "caption_scores",
    "captions_for_images",
    "check_words",
    "detect_photos",
    "images_for_text",
    "parse_text",
    "search",
    "stored_profile",
    "unknown_words",
]

Found = list[tuple[str, float]]  # image id or caption, score; best first
SIDE = 240  # pixels of a photo on a page
LABELS_SHOWN = 8  # under a table of captions

app = Program("python -m models.search", plugins=True)


@app.command("search")
def search(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store folder or manifest.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Text that describes an image.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE...", help="Find captions for image ids or photo files."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to search; default: the largest.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of results.")] = 5,
    parser: Annotated[str, typer.Option(help="Parser of the text.")] = "spacy",
    profile: Annotated[str, typer.Option(help="Profile of the text; default: the store's.")] = "",
    detector: Annotated[str, typer.Option(help="For photos; default: the store's.")] = "",
    detections: Annotated[str, typer.Option(help="File that the detector reads.")] = "",
    relations: Annotated[
        str, typer.Option(help="Relation predictor for photos; default: the store's.")
    ] = "",
    features: Annotated[
        str, typer.Option(help="Feature extractor for photos; default: the store's.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print names and scores as JSON.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with photos.")
    ] = None,
    images_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos of the store, for --html.")
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Accept a store with other data.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Print the best images of a store for a text, or its best captions for images."""
    if (text is None) == (not image):
        raise UsageError("Give either a text or --image.")
    # load torch, which --help does not need
    from models.compute import World, memory_errors, pick_device

    opened = open_store(store)
    if split is None:
        split = max(opened.splits, key=lambda name: len(opened.splits[name]))
        if len(opened.splits) > 1:
            note(f"searching {split!r}, the largest split; another one: --split NAME.")
    check_split(opened, split)
    chosen = pick_device(device, World())
    trained = load_run(run, opened, device=chosen, allow_mismatch=allow_mismatch)
    where: dict[str, Any] = {"split": split, "top": top, "device": chosen}
    with memory_errors(chosen, "Use a device with more memory, or --device cpu."):
        if text is not None:
            graph = parse_text(text, parser=parser, profile=profile or stored_profile(opened))
            check_words(trained, graph)
            images = images_for_text(trained, opened, graph, **where)
            if page is not None:
                _image_sheet(page, opened, text, split, images, images_dir)
                typer.echo(page)
            if as_json:
                _print_json([list(pair) for pair in images])
            elif page is None:
                _print_images(opened, text, split, images)
            if not as_json:
                photos = ["--images-dir", images_dir] if images_dir is not None else []
                name = images[0][0]
                next_steps(
                    ["search", store, run, text, "--html", "found.html", *photos],
                    ["draw", store, name, "--out", f"{Path(name).stem}.png", *photos],
                )
            return
        chain = {
            "detector": detector,
            "detections": detections,
            "relations": relations,
            "features": features,
        }
        answers = _captions_of(trained, opened, image or [], chain, **where)
    if page is not None:
        _caption_sheet(page, opened, split, answers, images_dir)
        typer.echo(page)
    if as_json:
        _print_json(
            [{"image": name, "captions": list(map(list, found))} for name, _, found in answers]
        )
        return
    for name, labels, found in answers if page is None else ():
        _print_captions(name, labels, split, found)
    if best := next((found[0][0] for *_, found in answers if found), ""):
        next_steps(["search", store, run, best])


def parse_text(text: str, *, parser: str, profile: str) -> TextGraph:
    """Parse one text in another process.

    Args:
        text: the text.   parser, profile: see ``python -m pipeline parse``.

    Raises: UsageError: it cannot be parsed; the message is the parser's.
    """
    words = ["parse", "--json", "--parser", parser, "--profile", profile, "--", text]
    done = _pipeline(words)
    if done.returncode:
        raise UsageError(f"{text!r} could not be parsed: {_last_line(done)}")
    return read_graph(done.stdout)


def check_words(run: Run, graph: TextGraph) -> None:
    """Note which words of a text a model does not know.

    Raises: UsageError: the text has no words.
    """
    words = {word.lower() for word in graph.tokens if any(sign.isalnum() for sign in word)}
    if not words:
        raise UsageError(f"the text {graph.caption!r} has no words. Describe an image.")
    unknown = unknown_words(run, graph)
    if len(unknown) == len(words):
        note(
            f"no word of the text is known to {run.folder} ({', '.join(unknown)}), so the order of "
            "the images says nothing."
        )
    elif unknown:
        note(f"not known to {run.folder}: {', '.join(unknown)}.")


def unknown_words(run: Run, graph: TextGraph) -> list[str]:
    """Return the words of a text that a model does not know."""
    if run.name == "clip" or getattr(run.model, "word_tables", None) == ():
        return []  # encoders of word pieces know every word
    words = [word.lower() for word in graph.tokens if any(sign.isalnum() for sign in word)]
    table = run.codebook.words
    return [word for word in dict.fromkeys(words) if table.id(word) == table.unknown]


def detect_photos(
    photos: Sequence[str], store: Store, changes: Mapping[str, str] | None = None
) -> tuple[list[Photo], list[str]]:
    """Compute graphs and features of photos in another process, as for the images of a store.

    Args:
        photos: image files.   store: whose detector, relation predictor and extractor to use.
        changes: other choices for ``detector``, ``detections``, ``relations`` or ``features``.

    Returns:
        the photos, and notes about the parts that differ from the store's.

    Raises: UsageError: it failed; the message is the pipeline's.
    """
    with tempfile.TemporaryDirectory(prefix="scenestore-photo-") as folder:
        out = Path(folder) / "photos.npz"
        words = ["photo", "--like", str(store.path), "--out", str(out)]
        for name, value in (changes or {}).items():
            words += [f"--{name}", value] if value else []
        done = _pipeline([*words, "--", *photos])
        if done.returncode:
            raise UsageError(_last_line(done).removeprefix("error: "))
        return read_photos(out)


def _pipeline(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"no reason given (exit code {done.returncode})"


def images_for_text(
    run: Run, store: Store, graph: TextGraph, *, split: str, top: int, device: torch.device
) -> Found:
    """Return (image id, score) of the best images of a split for a parsed text, best first."""
    import torch  # heavy

    with torch.inference_mode():
        code = run.model.encode_captions(caption_batch([graph], run.codebook).to(device))
        parts: list[Tensor] = [
            run.model.score(run.model.encode_images(batch.to(device)), code)[:, 0].float().cpu()
            for batch in store.image_batches(
                split, 64, run.codebook, unions=reads_unions(run.model)
            )
        ]
    return _best(torch.cat(parts), store.column("image_id")[store.image_rows(split)], top)


def captions_for_images(
    run: Run, store: Store, images: ImageBatch, *, split: str, top: int, device: torch.device
) -> list[Found]:
    """Return (caption, score) of the best captions of a split for each image, best first.

    Args:
        run: the model.   store: the captions.
        images: from the store (``ImageEncoder``) or from photos (``image_batch``).
        split: whose captions to rank.   top: how many to return.   device: of the model.
    """
    scores = caption_scores(run, store, images, split=split, device=device)
    captions = store.column("caption")[store.caption_rows(split)]
    return [_best(row, captions, top) for row in scores]


def caption_scores(
    run: Run, store: Store, images: ImageBatch, *, split: str, device: torch.device
) -> Tensor:
    """Return the scores of all captions of a split for images, (images, captions) on the CPU."""
    import torch  # heavy

    with torch.inference_mode():
        code = run.model.encode_images(images.to(device))
        parts: list[Tensor] = [
            run.model.score(code, run.model.encode_captions(batch.to(device))).float().cpu()
            for batch in store.caption_batches(split, 64, run.codebook)
        ]
    return torch.cat(parts, dim=1)


def _best(scores: Tensor, names: Any, top: int) -> Found:
    values, places = scores.sort(descending=True, stable=True)
    found = zip(places[:top].tolist(), values[:top].tolist(), strict=True)
    return [(str(names[place]), value) for place, value in found]


def _captions_of(
    run: Run, store: Store, names: Sequence[str], changes: Mapping[str, str], **where: Any
) -> list[tuple[str, str, Found]]:
    """Return (image, its labels, its captions) for image ids and photo files.

    Raises: UnknownName: neither an id in the store nor a file.
    """
    stored = {name: row for name in names if (row := _stored_row(store, name)) is not None}
    photos = [name for name in dict.fromkeys(names) if name not in stored]
    answers: dict[str, tuple[str, str, Found]] = {}
    if photos:
        detected, notes = detect_photos(photos, store, changes)
        for line in notes:
            note(line)
        batch = image_batch([photo[1:] for photo in detected], run.codebook)
        ranked = captions_for_images(run, store, batch, **where)
        for photo, found in zip(detected, ranked, strict=True):
            answers[photo.name] = (photo.name, _count_labels(photo.found.labels), found)
    if stored:
        batch = ImageEncoder(store, run.codebook).batch(np.array(list(stored.values())))
        ranked = captions_for_images(run, store, batch, **where)
        for name, found in zip(stored, ranked, strict=True):
            answers[name] = (name, _count_labels(store.graph(name).labels), found)
    return [answers[name] for name in names]


def _stored_row(store: Store, name: str) -> int | None:
    """Return the row of an image id; None for a photo file. Raises: UnknownName: neither."""
    try:
        return int(store.rows([name])[0])
    except UnknownName as error:
        if Path(name).exists():
            return None
        raise UnknownName(f"{error} {name!r} is not a photo file either.") from error


def _count_labels(labels: Sequence[str]) -> str:
    """Return the labels of a graph as a line: ``dog, person (3)``."""
    counts = Counter(labels).most_common(LABELS_SHOWN)
    more = ", ..." if len(set(labels)) > LABELS_SHOWN else ""
    return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts) + more


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _rows_of_images(store: Store, found: Found) -> list[tuple[str, str, str, str]]:
    """Return the score, id, file and first caption of each image found."""
    ids = [name for name, _ in found]
    rows = store.rows(ids)
    files = store.column("image_file")[rows]
    first = store.offsets("caption_offsets")
    captions = store.column("caption")
    return [
        (
            f"{score:.4f}",
            name,
            str(file),
            str(captions[first[row]]) if first[row] < first[row + 1] else "",
        )
        for (name, score), file, row in zip(found, files, rows, strict=True)
    ]


def _print_images(store: Store, text: str, split: str, found: Found) -> None:
    """Print the images found for a text, each with one of its captions."""
    rows = [
        (str(at), score, file, caption)
        for at, (score, _, file, caption) in enumerate(_rows_of_images(store, found), 1)
    ]
    columns = [
        *(Column("", right=True), Column("score", right=True)),
        *(Column("image", cut="start"), Column("one of its captions", cut="end")),
    ]
    print_table(columns, rows, f"{text!r} in {split}")


def _print_captions(name: str, labels: str, split: str, found: Found) -> None:
    columns = [Column("", right=True), Column("score", right=True), Column("caption", cut="end")]
    rows = [(str(at), f"{score:.4f}", caption) for at, (caption, score) in enumerate(found, 1)]
    print_table(columns, rows, f"{name} in {split}")
    if labels:
        sys.stdout.write(fitted(f"objects: {labels}") + "\n")


def _image_sheet(
    page: Path, store: Store, text: str, split: str, found: Found, images_dir: Path | None
) -> None:
    """Write a page of the images found for a text."""
    thumbnails = Thumbnails(images_dir)
    captions = store.captions
    images = [
        {
            "id": name,
            "thumbnail": thumbnails.data(file, SIDE),
            "score": score,
            "captions": captions[captions["image"] == name]["text"].tolist()[:2],
        }
        for score, name, file, _ in _rows_of_images(store, found)
    ]
    lead = f"The best images of {split!r} in {store.path.parent}."
    write_sheet(page, text, lead, [{"images": images}])


def _caption_sheet(
    page: Path,
    store: Store,
    split: str,
    answers: Sequence[tuple[str, str, Found]],
    images_dir: Path | None,
) -> None:
    """Write a page of the captions found for images of the store and for photo files."""
    stored = dict(zip(store.images["id"], store.images["file"], strict=True))
    sections = []
    for name, labels, found in answers:
        folder, file = images_dir, str(stored.get(name, ""))
        if name not in stored:  # a photo file of the user's
            folder, file = Path(name).resolve().parent, Path(name).name
        photo = {"id": name, "thumbnail": Thumbnails(folder).data(file, SIDE)}
        captions = [(caption, f"{score:.4f}") for caption, score in found]
        about = f"objects: {labels}" if labels else ""
        sections.append({"title": name, "photo": photo, "note": about, "captions": captions})
    lead = f"The best captions of {split!r} in {store.path.parent}."
    write_sheet(page, "Captions for images", lead, sections)


if __name__ == "__main__":
    app.run()
