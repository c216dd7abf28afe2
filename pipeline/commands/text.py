"""Commands of ``python -m pipeline`` about captions: parse, rules."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator

from features.records import TextGraph

__all__ = ["add_commands", "draw_arcs", "table"]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this module's commands to the parser of ``python -m pipeline``."""
    add = commands.add_parser("parse", help="graphs of captions", description=_parse.__doc__)
    add.add_argument("captions", nargs="+", metavar="CAPTION", help="- reads lines from stdin")
    add.add_argument("--parser", default="spacy", help="spacy (default) or stanza")
    add.add_argument("--profile", default="extended", help="extended (default) or spice")
    add.add_argument("--scheme", default="ud", help="ud (default), ud1-basic or clear")
    add.add_argument("--model", help="spaCy: package or folder of a model")
    add.add_argument("--model-dir", help="stanza: folder of the models")
    add.add_argument("--json", action="store_true", help="one JSON object per caption")
    add.set_defaults(run=_parse)

    add = commands.add_parser("rules", help="the rules as Markdown", description=_rules.__doc__)
    add.set_defaults(run=_rules)


def _parse(args: argparse.Namespace) -> int:
    """Print tokens, dependency arcs, objects, attributes and relations of captions."""
    from pipeline.parse import parse

    options: dict[str, object] = {}
    if args.model:
        options["model"] = args.model
    if args.model_dir:
        options["model_dir"] = args.model_dir
    graphs = parse(
        list(_captions(args.captions)),
        parser=args.parser,
        profile=args.profile,
        scheme=args.scheme,
        **options,
    )
    for graph in graphs:
        sys.stdout.write((_json(graph) if args.json else table(graph)) + "\n")
    return 0


def _rules(args: argparse.Namespace) -> int:
    """Print the rules of both profiles with an example each, as in docs/rules.md."""
    from pipeline.language.spice.rules import markdown

    sys.stdout.write(markdown())
    return 0


def _captions(given: list[str]) -> Iterator[str]:
    for caption in given:
        if caption == "-":
            yield from (line.rstrip("\n") for line in sys.stdin)
        else:
            yield caption


def _json(graph: TextGraph) -> str:
    document = {**dataclasses.asdict(graph), "triplets": graph.triplets}
    return json.dumps(document, ensure_ascii=True)  # lone surrogates survive as escapes


def table(graph: TextGraph) -> str:
    """Return a caption's graph as text: token table with arcs, then the scene graph."""
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


def _printable(text: str) -> str:
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in text)


def draw_arcs(heads: tuple[int, ...]) -> list[str]:
    """Return one string per token that draws the dependency arcs as brackets, longest outermost.

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
    """Draw the horizontal part from the outermost corner to the token."""
    corner = next((x for x, mark in enumerate(line) if mark in "┌└├"), None)
    if corner is None:
        return line
    filled = list(line)
    for x in range(corner + 1, len(line)):
        filled[x] = {" ": "─", "│": "┼", "┌": "┬", "└": "┴", "├": "┼"}[line[x]]
    return filled
