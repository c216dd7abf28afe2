"""Commands for captions: ``parse``, ``rules``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from features.commands import Program, fitted, next_steps
from features.records import TextGraph
from pipeline.language import markdown
from pipeline.parse import parse as parse_captions

app = Program("python -m pipeline", plugins=True)


@app.command("parse")
def parse(
    captions: Annotated[
        list[str], typer.Argument(metavar="CAPTION", help="Captions; - reads lines from stdin.")
    ],
    parser: Annotated[str, typer.Option(help="Parser: spacy or stanza.")] = "spacy",
    profile: Annotated[str, typer.Option(help="Rules: extended or spice.")] = "extended",
    scheme: Annotated[str, typer.Option(help="Dependency scheme: ud, ud1-basic or clear.")] = "ud",
    model: Annotated[str, typer.Option(help="spaCy: package or folder of a model.")] = "",
    model_dir: Annotated[str, typer.Option(help="stanza: folder of the models.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per caption.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Answer each line of stdin before reading the next.")
    ] = False,
) -> None:
    """Parse captions into graphs.

    Prints tokens, dependency arcs, objects, attributes and relations.
    """
    given = {"model": model, "model_dir": model_dir}
    options = {name: value for name, value in given.items() if value}
    several = ([line] for line in _lines(captions)) if stream else [_lines(captions)]
    for some in several:
        for graph in parse_captions(some, parser, profile, scheme, **options):
            typer.echo(_json(graph) if as_json else _cut(table(graph)))
        sys.stdout.flush()
    if not as_json and captions != ["-"]:
        other = "spice" if profile == "extended" else "extended"
        next_steps(["parse", captions[0], "--profile", other], ["parse", captions[0], "--json"])


@app.command("rules")
def rules() -> None:
    """Print the page docs/rules.md.

    It lists the rules of both profiles with an example each.
    """
    typer.echo(markdown(), nl=False)


def _lines(captions: list[str]) -> Iterator[str]:
    for caption in captions:
        if caption == "-":
            yield from (line.rstrip("\n") for line in sys.stdin)
        else:
            yield caption


def _json(graph: TextGraph) -> str:
    document = {**dataclasses.asdict(graph), "triplets": graph.triplets}
    return json.dumps(document, ensure_ascii=True)  # keeps unpaired surrogates, as escapes


def table(graph: TextGraph) -> str:
    """Return a caption's graph as text: a token table with arcs, then the scene graph."""
    lines = [_printable(graph.caption), ""]
    if graph.problem:
        lines += [f"problem: {graph.problem}", ""]
    rows = [("", "token", "lemma", "upos", "tag", "role", graph.scheme, "")]
    arcs = draw_arcs(graph.heads)
    for at, token in enumerate(graph.tokens):
        head = graph.heads[at]
        above = "root" if head < 0 else _printable(graph.tokens[head])
        rows.append(
            (
                *(str(at), _printable(token), _printable(graph.lemmas[at]), graph.upos[at]),
                *(graph.xpos[at], graph.roles[at] if graph.roles else "", graph.deprels[at]),
                f"{arcs[at]} {above}" if head >= 0 else f"{arcs[at]} (root)",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(8)]
    for row in rows if graph.tokens else []:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    described: dict[int, list[str]] = {}
    for row_, (_, word) in zip(graph.attribute_objects, graph.attributes, strict=True):
        described.setdefault(row_, []).append(word)
    for at, name in enumerate(graph.objects):
        lines.append(f"object     {name}" + "".join(f" · {w}" for w in described.get(at, [])))
    for subject, predicate, other in graph.triplets:
        lines.append(f"relation   {subject} -- {predicate} -> {other}")
    return "\n".join(lines) + "\n"


def _cut(text: str) -> str:
    return "\n".join(fitted(line) for line in text.split("\n"))


def _printable(text: str) -> str:
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in text)


def draw_arcs(heads: tuple[int, ...]) -> list[str]:
    """Draw the dependency arcs as brackets, longest outermost: one string per token.

    >>> draw_arcs((1, -1, 1))
    ['┌>', '├─', '└>']
    """
    n = len(heads)
    arcs = sorted(
        (abs(at - head), min(at, head), max(at, head), at)
        for at, head in enumerate(heads)
        if head >= 0
    )
    columns: list[list[tuple[int, int, int]]] = []  # innermost first
    for _, low, high, dependent in arcs:
        for column in columns:
            if all(high <= other_low or low >= other_high for other_low, other_high, _ in column):
                column.append((low, high, dependent))
                break
        else:
            columns.append([(low, high, dependent)])
    lines = [[" "] * len(columns) for _ in range(n)]
    for column_number, column in enumerate(columns):
        x = len(columns) - 1 - column_number
        for low, high, _ in column:
            for at in range(low, high + 1):
                mark = "┌" if at == low else "└" if at == high else "│"
                seen = lines[at][x]
                lines[at][x] = "├" if {seen, mark} == {"┌", "└"} else mark
    return [
        "".join(_bridge(line)) + (">" if heads[at] >= 0 else "─") for at, line in enumerate(lines)
    ]


def _bridge(line: list[str]) -> list[str]:
    """Draw the horizontal line from the outermost corner to the token."""
    corner = next((x for x, mark in enumerate(line) if mark in "┌└├"), None)
    if corner is None:
        return line
    filled = list(line)
    for x in range(corner + 1, len(line)):
        filled[x] = {" ": "─", "│": "┼", "┌": "┬", "└": "┴", "├": "┼"}[line[x]]
    return filled
