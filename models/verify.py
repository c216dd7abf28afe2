"""Verify a result: ``python -m models.verify-result FILE``.

FILE is the reproducibility card of a row that ``CompareModels`` wrote, or its ``compare.json``. The
row is trained and evaluated again, and the command says whether its rSum falls into the interval.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from features.commands import Program
from features.errors import InputError, MissingInput, UnknownName, UsageError
from features.format import content_key, replacing
from features.plugins import inherited
from features.store import Store, open_store
from models.configuration import Config, Strict, from_dict, validated
from models.evaluate import evaluate
from models.evaluation import Protocol
from models.train import train
from models.training import libraries

__all__ = ["Card", "app", "read_card", "verify"]

OUTSIDE = 1
VERSION = 1  # of the cards that are read
SHOWN = (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "rsum")
Number = Annotated[float, Field(strict=False)]

app = Program("python -m models.verify-result", plugins=True)


class StoreOfCard(Strict):
    """The store that a row was made on."""

    path: str
    key: str
    hash: str


class Training(Strict):
    """A run of a row; several are an ensemble."""

    configuration: str
    """Hash of ``config``."""
    config: dict[str, dict[str, Any]]
    """All settings but places and the seed."""


class Sum(Strict):
    """The rSum of a row over its seeds, and the interval that another training should hit."""

    value: Number
    low: Number
    high: Number
    lowest_seed: Number
    highest_seed: Number
    deviation: Number | None


class Result(Strict):
    """The numbers of one seed."""

    seed: int
    metrics: dict[str, Number]
    intervals: dict[str, list[Number]]


class Card(Strict):
    """What a row of a comparison was made of."""

    card: int
    row: str
    command: str
    plugins: str
    store: StoreOfCard
    protocol: Protocol
    trainings: Annotated[list[Training], Field(min_length=1)]
    rsum: Sum
    results: Annotated[list[Result], Field(min_length=1)]
    libraries: dict[str, dict[str, str]]
    device: str


def read_card(path: Path, row: str = "") -> Card:
    """Read a card.

    Args:
        path: a card, or the ``compare.json`` that has it.   row: its name, where there are several.

    Raises:
        MissingInput: no such file.
        InputError: not a card, or its configuration was changed afterwards.
        UnknownName, UsageError: the file has no such row, or several and none is named.
        ConfigError: a value of the card is missing or of the wrong type.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}). CompareModels writes cards.") from error
    if isinstance(content, dict) and isinstance(rows := content.get("rows"), list):
        content = _card_of(rows, row, path)
    if not isinstance(content, dict) or "card" not in content:
        raise InputError(
            f"{path}: is not a reproducibility card. CompareModels writes cards/ROW.json."
        )
    if content["card"] != VERSION:
        raise InputError(
            f"{path}: is a card of version {content['card']!r}, this release reads {VERSION}. "
            "Use the release that the card names under libraries."
        )
    card = validated(Card, content, str(path), ("key", "key"))
    for training in card.trainings:
        if content_key("configuration", "1", training.config, {}) != training.configuration:
            raise InputError(
                f"{path}: configuration {training.configuration[:12]} does not have this hash any "
                "more. The card was edited; use the one that CompareModels wrote."
            )
    return card


def _card_of(rows: list[Any], name: str, path: Path) -> Any:
    """Return the card of a row in a comparison."""
    cards = {one["name"]: one["card"] for one in rows if isinstance(one, dict) and "card" in one}
    if not cards:
        raise InputError(f"{path}: has no reproducibility cards. Run CompareModels again.")
    if not name and len(cards) > 1:
        raise UsageError(f"{path}: has {len(cards)} rows. Pass --row, one of {', '.join(cards)}.")
    name = name or next(iter(cards))
    if name not in cards:
        raise UnknownName.of("row", name, cards)
    return cards[name]


@app.command("verify-result")
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A card, or a compare.json.")],
    row: Annotated[str, typer.Option(help="Row of a compare.json with several.")] = "",
    store: Annotated[
        str, typer.Option(metavar="STORE", help="The store, if it is not where the card says.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the new runs; default: FILE-again.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=0, help="Train the first N seeds; 0: all.")
    ] = 0,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; default: as the card says.")
    ] = "",
) -> int:
    """Train and evaluate a row of CompareModels again, and compare its rSum with its interval.

    Exit codes: 0 inside of the interval, 1 outside, 2 the card or the store cannot be used, 75
    stopped by a signal: run the same command again to resume.
    """
    card = read_card(file, row)
    if card.plugins and not inherited():  # never import what a file names
        raise UsageError(f"{card.row} needs plug-ins. Pass --plugins {card.plugins}.")
    opened = _matching_store(card, store or card.store.path)
    folder = out or file.with_name(f"{file.stem}-again")
    verdict = folder / f"verdict-{card.row}.json"
    resume = "never" if verdict.exists() else "auto"  # of a verification that was stopped
    verdict.unlink(missing_ok=True)
    found: list[Result] = []
    for old in card.results[: seeds or None]:
        runs = []
        for number, training in enumerate(card.trainings):
            place = folder / f"{card.row}-{number}-seed{old.seed}"
            config = _config(training, opened, place, old.seed, resume, device)
            if code := train(config):
                return code
            runs.append(place)
        found.append(_evaluated(card, runs, opened, folder, old.seed, device))
    inside = _report(card, found)
    with replacing(verdict) as partial:
        document = {
            "row": card.row,
            "inside": inside,
            "results": [one.model_dump() for one in found],
            "libraries": libraries(),
        }
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if inside else OUTSIDE


def _matching_store(card: Card, path: str) -> Store:
    """Open the store of a card. Raises: UsageError: it holds other data."""
    opened = open_store(path)
    for what, theirs, ours in (
        ("key", card.store.key, opened.manifest["key"]),
        ("contents", card.store.hash, opened.hash),
    ):
        if theirs != ours:
            raise UsageError(
                f"{card.row} was made on a store with {what} {theirs[:12]}, but {path} has "
                f"{ours[:12]}. Its numbers cannot be compared: pass --store with that store."
            )
    return opened


def _config(
    training: Training, store: Store, folder: Path, seed: int, resume: str, device: str
) -> Config:
    tree = {section: dict(values) for section, values in training.config.items()}
    tree["data"]["store"] = str(store.path)
    tree["run"] |= {"folder": str(folder), "seed": seed, "resume": resume}
    if device:
        tree["run"]["device"] = device
    return from_dict(tree, f"configuration {training.configuration[:12]}")


def _evaluated(
    card: Card, runs: list[Path], store: Store, folder: Path, seed: int, device: str
) -> Result:
    path = folder / f"{card.row}-seed{seed}.json"
    protocol = card.protocol
    precision: Any = protocol.precision
    evaluate(
        runs,
        str(store.path),
        protocol.split,
        fold5=protocol.fold5,
        rerank=protocol.rerank_top > 0,
        rerank_top=max(1, protocol.rerank_top),
        precision=precision,
        bootstrap=0,
        json=path,
        device=device or "auto",
    )
    last = json.loads(path.read_text(encoding="utf-8"))["rows"][-1]
    return Result(seed=seed, metrics=last["metrics"], intervals={})


def _report(card: Card, found: list[Result]) -> bool:
    """Print old and new numbers side by side; return whether the new rSum is in the interval."""
    before = card.results[: len(found)]
    lines = [f"{card.row}, seeds {', '.join(str(one.seed) for one in found)}:", ""]
    lines.append(f"{'':10}{'card':>10}{'now':>10}{'difference':>12}")
    for name in SHOWN:
        old, new = (statistics.fmean(one.metrics[name] for one in rows) for rows in (before, found))
        lines.append(f"{name:10}{old:10.2f}{new:10.2f}{new - old:+12.2f}")
    value = statistics.fmean(one.metrics["rsum"] for one in found)
    inside = card.rsum.low <= value <= card.rsum.high
    same = [one.metrics for one in found] == [one.metrics for one in before]
    lines += ["", *_other_libraries(card)]
    lines.append(
        f"rSum {value:.2f} is {'inside' if inside else 'OUTSIDE'} of the interval "
        f"{card.rsum.low:.2f} to {card.rsum.high:.2f}"
        + ("; all numbers are identical to those of the card." if same else ".")
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return inside


def _other_libraries(card: Card) -> list[str]:
    """Return a line for each library whose version is not that of the card."""
    recorded = card.libraries.get("training", {})
    return [
        f"note: {name} {version}, the card {recorded.get(name, 'does not say')}"
        for name, version in libraries().items()
        if recorded.get(name) != version
    ]


if __name__ == "__main__":
    app.run()
