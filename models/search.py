"""Search a store with a trained run: ``python -m models.search STORE RUN "a man riding a horse"``.

A text finds images; ``--image ID`` finds captions. The text is parsed as the store's captions
were, by ``python -m pipeline parse`` in a process of its own, so that a model never needs a parser.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import InputError, UsageError, exit_cleanly
from features.records import TextGraph
from models.evaluate import Run, load_run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from features.store import Store

__all__ = ["captions_for_image", "images_for_text", "main", "parse_text"]


def parse_text(text: str, *, parser: str, profile: str) -> TextGraph:
    """Parse one query in another process.

    Args:
        text: the query.   parser, profile: as ``python -m pipeline parse`` takes them.

    Raises: UsageError: it cannot be parsed; the message is the parser's.
    """
    command = [sys.executable, "-m", "pipeline", "parse", "--json"]
    command += ["--parser", parser, "--profile", profile, "--", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UsageError(f"{text!r} could not be parsed: {said[-1] if said else 'no reason given'}")
    return read_graph(done.stdout)


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
) -> list[tuple[str, float]]:
    """Return (image id, score) of the best images of a split for a parsed text, best first."""
    import torch

    with torch.inference_mode():
        code = run.model.encode_captions(run.codebook.captions([graph]).to(device))
        parts: list[Tensor] = [
            run.model.score(run.model.encode_images(batch.to(device)), code)[:, 0].float().cpu()
            for batch in store.image_batches(split, 64, run.codebook)
        ]
    return _best(torch.cat(parts), store.column("image_id")[store.image_rows(split)], top)


def captions_for_image(
    run: Run, store: Store, image_id: str, split: str, *, top: int, device: torch.device
) -> list[tuple[str, float]]:
    """Return (caption, score) of the best captions of a split for a stored image, best first.

    Raises: UnknownName: no such image.
    """
    import torch

    row = int(store.rows([image_id])[0])
    name = f"image {image_id}"
    store.splits[name] = store.rows([image_id])
    try:
        (image,) = store.image_batches(name, 1, run.codebook)
    finally:
        del store.splits[name]
    assert int(image.rows[0]) == row
    with torch.inference_mode():
        code = run.model.encode_images(image.to(device))
        parts: list[Tensor] = [
            run.model.score(code, run.model.encode_captions(batch.to(device)))[0].float().cpu()
            for batch in store.caption_batches(split, 64, run.codebook)
        ]
    return _best(torch.cat(parts), store.column("caption")[store.caption_rows(split)], top)


def _best(scores: Tensor, names: Any, top: int) -> list[tuple[str, float]]:
    values, places = scores.sort(descending=True, stable=True)
    found = zip(places[:top].tolist(), values[:top].tolist(), strict=True)
    return [(str(names[place]), value) for place, value in found]


def stored_profile(store: Store) -> str:
    """Return the triplet profile that the store's captions were parsed with."""
    params = store.group("text").manifest.params
    return str(params.get("parameters", {}).get("profile", "extended"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    if (options.text is None) == (options.image is None):
        raise UsageError("give either a text or --image.")
    if options.top < 1:
        raise UsageError(f"--top {options.top}: at least 1.")
    from features.store import open_store
    from models.distributed import World
    from models.runs import resolve_split
    from models.train import pick_device

    store = open_store(options.store)
    split = options.split or max(store.splits, key=lambda name: len(store.splits[name]))
    resolve_split(store, split)
    device = pick_device(options.device, World())
    run = load_run(options.run, store, device=device, allow_mismatch=options.allow_mismatch)
    if options.text is not None:
        profile = options.profile or stored_profile(store)
        graph = parse_text(options.text, parser=options.parser, profile=profile)
        found = images_for_text(run, store, graph, split, top=options.top, device=device)
        shown = store.images.set_index("id").file
        lines = [f"{score:8.4f}  {shown[name]}" for name, score in found]
    else:
        found = captions_for_image(run, store, options.image, split, top=options.top, device=device)
        lines = [f"{score:8.4f}  {text}" for text, score in found]
    if options.json:
        sys.stdout.write(json.dumps([list(pair) for pair in found], ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.search",
        description="The best images of a store for a text, or captions for one of its images.",
    )
    parser.add_argument("store", metavar="STORE", help="store folder or manifest")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to look for")
    parser.add_argument("--image", metavar="ID", help="id of a stored image: find its captions")
    parser.add_argument("--split", help="where to look; the largest split when not given")
    parser.add_argument("--top", type=int, default=5, help="how many")
    parser.add_argument("--parser", default="spacy", help="parser of the query")
    parser.add_argument("--profile", default="", help="profile of the query; the store's own")
    parser.add_argument("--json", action="store_true", help="print pairs of name and score")
    parser.add_argument("--allow-mismatch", action="store_true", help="accept other data")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
