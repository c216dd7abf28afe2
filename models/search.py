"""Search a store with a trained run: ``python -m models.search STORE RUN "a man riding a horse"``.

A text finds images; ``--image`` finds captions, for ids of the store and for any other photo. A
text is parsed, and a photo detected and pooled, as the store's own were, by ``python -m pipeline``
in a process of its own, so that a model never needs a parser or a detector.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.batches.caption_encoder import caption_batch
from features.batches.image_encoder import ImageEncoder, image_batch
from features.commands.program import exit_cleanly
from features.errors import InputError, UnknownName, UsageError
from features.format.photo_file import Photo, read_photos
from features.records import TextGraph
from models.evaluate import Run, load_run
from models.registry import reads_unions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from features.batches.batch import ImageBatch
    from features.store import Store

__all__ = ["captions_for_images", "images_for_text", "look_at", "main", "parse_text"]

Found = list[tuple[str, float]]  # image id or caption, score; best first
INSTEAD = ("detector", "detections", "relations", "features")  # of a photo, see ``look_at``
SHOWN = 8  # kinds of objects named under a table


def parse_text(text: str, *, parser: str, profile: str) -> TextGraph:
    """Parse one query in another process.

    Args:
        text: the query.   parser, profile: as ``python -m pipeline parse`` takes them.

    Raises: UsageError: it cannot be parsed; the message is the parser's.
    """
    words = ["parse", "--json", "--parser", parser, "--profile", profile, "--", text]
    done = _pipeline(words)
    if done.returncode:
        raise UsageError(f"{text!r} could not be parsed: {_last_line(done)}")
    return read_graph(done.stdout)


def look_at(
    photos: Sequence[str], store: Store, instead: Mapping[str, str] | None = None
) -> tuple[list[Photo], list[str]]:
    """Detect and pool photos as a store's own were, in another process.

    Args:
        photos: picture files.   store: whose detector, relations, extractor and rules are used.
        instead: options of ``python -m pipeline photo``: detector, detections, relations, features.

    Returns:
        the photos, and notes about parts that are not the store's own.

    Raises: UsageError: it could not be done; the message is the pipeline's.
    """
    with tempfile.TemporaryDirectory(prefix="scenestore-photo-") as folder:
        out = Path(folder) / "photos.npz"
        words = ["photo", "--like", str(store.path), "--out", str(out)]
        for name, value in (instead or {}).items():
            words += [f"--{name}", value] if value else []
        done = _pipeline([*words, "--", *photos])
        if done.returncode:
            raise UsageError(_last_line(done).removeprefix("error: "))
        return read_photos(out)


def _pipeline(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"no reason given (exit code {done.returncode})"


def read_graph(document: str) -> TextGraph:
    """Return the first parsed caption of the JSON that ``pipeline parse --json`` prints.

    Raises: InputError: it is not that JSON.
    """
    try:
        value = json.loads(document)
        record: Mapping[str, Any] = value[0] if isinstance(value, list) else value
        names = {item.name for item in dataclasses.fields(TextGraph)}
        return TextGraph(**{k: _tuples(v) for k, v in record.items() if k in names})
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"not a parsed caption: {document[:80]!r} ({error}).") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def images_for_text(
    run: Run, store: Store, graph: TextGraph, split: str, *, top: int, device: torch.device
) -> Found:
    """Return (image id, score) of the best images of a split for a parsed text, best first."""
    import torch

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
    run: Run, store: Store, images: ImageBatch, split: str, *, top: int, device: torch.device
) -> list[Found]:
    """Return (caption, score) of the best captions of a split for each image, best first.

    Args:
        run, store: the model, and where its captions are.
        images: of the store (``ImageEncoder``) or not (``image_batch``).
        split: whose captions compete.   top: how many.   device: where the model is.
    """
    import torch

    with torch.inference_mode():
        code = run.model.encode_images(images.to(device))
        parts: list[Tensor] = [
            run.model.score(code, run.model.encode_captions(batch.to(device))).float().cpu()
            for batch in store.caption_batches(split, 64, run.codebook)
        ]
    captions = store.column("caption")[store.caption_rows(split)]
    return [_best(scores, captions, top) for scores in torch.cat(parts, dim=1)]


def _best(scores: Tensor, names: Any, top: int) -> Found:
    values, places = scores.sort(descending=True, stable=True)
    found = zip(places[:top].tolist(), values[:top].tolist(), strict=True)
    return [(str(names[place]), value) for place, value in found]


def stored_profile(store: Store) -> str:
    """Return the triplet profile that the store's captions were parsed with."""
    params = store.group("text").manifest.params
    return str(params.get("parameters", {}).get("profile", "extended"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_intermixed_args(arguments)
    if (options.text is None) == (options.image is None):
        raise UsageError("give either a text or --image.")
    if options.top < 1:
        raise UsageError(f"--top {options.top}: at least 1.")
    from features.store import open_store
    from models.compute.device import memory_errors, pick_device
    from models.compute.distributed import World
    from models.training.runs import resolve_split

    store = open_store(options.store)
    split = options.split or max(store.splits, key=lambda name: len(store.splits[name]))
    resolve_split(store, split)
    device = pick_device(options.device, World())
    run = load_run(options.run, store, device=device, allow_mismatch=options.allow_mismatch)
    with memory_errors(device, "Use a device with more memory, or --device cpu."):
        if options.text is not None:
            _answer_text(run, store, options, split, device)
        else:
            _answer_images(run, store, options, split, device)
    return 0


def _answer_text(
    run: Run, store: Store, options: argparse.Namespace, split: str, device: torch.device
) -> None:
    profile = options.profile or stored_profile(store)
    graph = parse_text(options.text, parser=options.parser, profile=profile)
    found = images_for_text(run, store, graph, split, top=options.top, device=device)
    if options.json:
        _say_json([list(pair) for pair in found])
    else:
        _show_images(store, options.text, split, found)


def _answer_images(
    run: Run, store: Store, options: argparse.Namespace, split: str, device: torch.device
) -> None:
    answers = _captions_of(run, store, options, split, device)
    if options.json:
        _say_json(
            [{"image": name, "captions": list(map(list, found))} for name, _, found in answers]
        )
    else:
        for name, about, found in answers:
            _show_captions(name, about, split, found)


def _captions_of(
    run: Run, store: Store, options: argparse.Namespace, split: str, device: torch.device
) -> list[tuple[str, str, Found]]:
    """Return (image, what is seen on it, its captions) for every --image, stored or not.

    Raises: UnknownName: neither an id of the store nor a file.
    """
    stored = {name: row for name in options.image if (row := _stored_row(store, name)) is not None}
    photos = [name for name in dict.fromkeys(options.image) if name not in stored]
    answers: dict[str, tuple[str, str, Found]] = {}
    if photos:
        instead = {name: getattr(options, name) for name in INSTEAD}
        seen, notes = look_at(photos, store, instead)
        for note in notes:
            sys.stderr.write(f"note: {note}\n")
        batch = image_batch([photo[1:] for photo in seen], run.codebook)
        ranked = captions_for_images(run, store, batch, split, top=options.top, device=device)
        for photo, found in zip(seen, ranked, strict=True):
            answers[photo.name] = (photo.name, _in_words(photo.found.labels), found)
    if stored:
        import numpy as np

        batch = ImageEncoder(store, run.codebook).batch(np.array(list(stored.values())))
        ranked = captions_for_images(run, store, batch, split, top=options.top, device=device)
        for name, found in zip(stored, ranked, strict=True):
            answers[name] = (name, _in_words(store.graph(name).labels), found)
    return [answers[name] for name in options.image]


def _stored_row(store: Store, name: str) -> int | None:
    """Return the row of a stored image; None for a photo. Raises: UnknownName: it is neither."""
    try:
        return int(store.rows([name])[0])
    except UnknownName as error:
        if Path(name).exists():
            return None
        raise UnknownName(f"{error} There is no photo file {name!r} either.") from error


def _in_words(labels: Sequence[str]) -> str:
    """Return the objects of a graph as a line: ``dog, person (3)``."""
    counts = Counter(labels).most_common(SHOWN)
    more = ", ..." if len(set(labels)) > SHOWN else ""
    return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts) + more


def _say_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _show_images(store: Store, text: str, split: str, found: Found) -> None:
    """Print the images that a text finds, each with one of its own captions."""
    ids = [name for name, _ in found]
    rows = store.rows(ids)
    files = store.column("image_file")[rows]
    first = store.offsets("caption_offsets")
    captions = store.column("caption")
    rows_out = [
        (
            f"{score:.4f}",
            str(file),
            str(captions[first[row]]) if first[row] < first[row + 1] else "",
        )
        for (_, score), file, row in zip(found, files, rows, strict=True)
    ]
    _show(f"{text!r} in {split}", "", ("score", "image", "one of its captions"), rows_out)


def _show_captions(name: str, about: str, split: str, found: Found) -> None:
    rows = [(f"{score:.4f}", caption) for caption, score in found]
    _show(f"{name} in {split}", f"on it: {about}", ("score", "caption"), rows)


def _show(title: str, about: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; what the user or the data wrote is text, never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("", justify="right")
    for head in heads:
        table.add_column(head, justify="right" if head == "score" else "left", overflow="fold")
    for at, row in enumerate(rows, 1):
        table.add_row(str(at), *map(Text, row))
    console = Console()
    if not console.is_terminal:  # a pipe has no width of its own: never cut captions there
        console = Console(width=160)
    console.print(Text(title, "bold"), soft_wrap=True)
    if about:
        console.print(Text(about, "dim"), soft_wrap=True)
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.search",
        description="The best images of a store for a text, or its best captions for images.",
    )
    parser.add_argument("store", metavar="STORE", help="store folder or manifest")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to look for")
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        nargs="+",
        action="extend",
        help="find captions: ids of stored images, or any photo files",
    )
    parser.add_argument("--split", help="where to look; the largest split when not given")
    parser.add_argument("--top", type=int, default=5, help="how many")
    parser.add_argument("--parser", default="spacy", help="parser of the query")
    parser.add_argument("--profile", default="", help="profile of the query; the store's own")
    parser.add_argument("--detector", default="", help="of photos; the store's own")
    parser.add_argument("--detections", default="", help="file that the detector reads")
    parser.add_argument("--relations", default="", help="predictor for photos; the store's own")
    parser.add_argument("--features", default="", help="extractor for photos; the store's own")
    parser.add_argument("--json", action="store_true", help="print names and scores as JSON")
    parser.add_argument("--allow-mismatch", action="store_true", help="accept other data")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
