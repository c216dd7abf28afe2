"""Where each numbered equation of the five papers stands in the code.

A docstring claims equations in its first line, for example ``GSMN Eq. (3)-(5)``.
``python -m models.equations docs/equations.md`` writes the table; a test keeps it up to date and
complete.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from features.commands.program import exit_cleanly
from features.errors import UsageError

__all__ = ["ELSEWHERE", "PAPERS", "Claim", "claims", "table"]

PAPERS = {"SGM": 9, "GSMN": 12, "RACG": 27, "HREM": 14, "CFSGR": 19}
"""How many equations each paper numbers."""

ELSEWHERE: dict[tuple[str, int], str] = {}
"""Equations without code of their own, and why."""

_CLAIM = re.compile(
    r"(SGM|GSMN|RACG|HREM|CFSGR) (Eq\. \(\d+\)(?:(?:-|, | and )(?:Eq\. )?\(\d+\))*)"
)


class Claim(NamedTuple):
    """A docstring that says which equation its code computes."""

    paper: str
    number: int
    file: str  # relative to the repository
    line: int
    name: str  # function, method or class


def claims(root: Path) -> list[Claim]:
    """Return all claims of the ``models`` package under ``root``, by paper, equation and place."""
    found = [
        claim
        for path in sorted((root / "models").rglob("*.py"))
        for claim in _claims_of(path, path.relative_to(root).as_posix())
    ]
    order = list(PAPERS)
    return sorted(found, key=lambda c: (order.index(c.paper), c.number, c.file, c.line))


def _claims_of(path: Path, shown: str) -> Iterator[Claim]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node, name in _definitions(tree, ""):
        text = ast.get_docstring(node)
        for paper, equations in _CLAIM.findall((text or "").partition("\n")[0]):
            for number in _numbers(equations):
                yield Claim(paper, number, shown, node.lineno, name)


def _definitions(node: ast.AST, outer: str) -> Iterator[tuple[ast.FunctionDef | ast.ClassDef, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{outer}.{child.name}" if outer else child.name
            yield child, name
            yield from _definitions(child, name)


def _numbers(equations: str) -> list[int]:
    """Return the numbers of ``Eq. (3)-(5)``, ``Eq. (3), (5)`` or ``Eq. (3) and Eq. (5)``."""
    numbers: list[int] = []
    for dash, number in re.findall(r"(-?)\((\d+)\)", equations):
        first = numbers[-1] + 1 if dash else int(number)
        numbers.extend(range(first, int(number) + 1))
    return numbers


def missing(found: list[Claim]) -> list[tuple[str, int]]:
    """Return the equations that no docstring claims and no reason excuses."""
    known = {(claim.paper, claim.number) for claim in found} | set(ELSEWHERE)
    return [
        (paper, number)
        for paper, count in PAPERS.items()
        for number in range(1, count + 1)
        if (paper, number) not in known
    ]


def table(found: list[Claim]) -> str:
    """Return the Markdown page: one row for each equation."""
    lines = [
        "# Equations",
        "",
        "Where each numbered equation of the papers is computed. Written by",
        "`python -m models.equations docs/equations.md`; do not edit.",
        "",
    ]
    for paper, count in PAPERS.items():
        lines += [f"## {paper}", "", "| Eq. | Code |", "|---|---|"]
        for number in range(1, count + 1):
            places = [
                f"[`{c.name}`](../{c.file}#L{c.line}) {c.file}:{c.line}"
                for c in found
                if (c.paper, c.number) == (paper, number)
            ]
            lines.append(
                f"| {number} | {'; '.join(places) or ELSEWHERE.get((paper, number), '')} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the page to the file named on the command line, or show it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("page", type=Path, nargs="?", help="file to write; default: show it")
    page = parser.parse_args(arguments).page
    found = claims(Path(__file__).resolve().parents[1])
    lost = missing(found)
    if lost:
        listed = ", ".join(f"{paper} Eq. ({number})" for paper, number in lost)
        raise UsageError(f"no docstring claims {listed}; name them in the code that computes them.")
    if page:
        page.write_text(table(found), encoding="utf-8")
    else:
        sys.stdout.write(table(found))
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
