"""What commands print: tables that fit the terminal, notes, and what to run next.

Results go to standard output; notes and the lines ``next: COMMAND`` go to standard error, so that a
pipe gets results only.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # a pipe has no width, and nothing must be cut there
GAP = 2  # spaces between columns
LEAST = 8  # characters to which a text column may be cut
QUIET, NORMAL, VERBOSE = -1, 0, 1
_level = [NORMAL]

Cell = str | tuple[str, str]  # text, or text and what is written below it


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: its name; a line break makes it two lines.
        right: align it to the right, as numbers are.
        cut: long texts may be cut to fit; ``end`` cuts their ends, ``start`` their beginnings.
        rank: 0 for a column that is always shown; those of the highest rank are left out first.
        keep: show what is below its numbers also on a narrow terminal.
    """

    head: str
    right: bool = False
    cut: str = ""
    rank: int = 0
    keep: bool = False


def set_level(level: int) -> None:
    """Set how much commands print: ``QUIET``, ``NORMAL`` or ``VERBOSE``."""
    _level[0] = level


def level() -> int:
    """Return how much commands print."""
    return _level[0]


def note(text: str) -> None:
    """Write a line ``note: TEXT`` to standard error, unless ``--quiet`` was given."""
    if _level[0] > QUIET:
        sys.stderr.write(f"note: {text}\n")


def next_steps(*commands: Sequence[object]) -> None:
    """Write commands that a user may want next to standard error, unless ``--quiet`` was given.

    Args:
        commands: words after ``scenestore``, such as ``("show", folder)``; they are quoted.
    """
    if _level[0] > QUIET:
        sys.stdout.flush()
        for words in commands:
            sys.stderr.write(f"next: {command_line(words)}\n")


def command_line(words: Sequence[object]) -> str:
    """Return a command as a user types it in a shell, given its words after ``scenestore``."""
    if shutil.which("scenestore"):
        start = ["scenestore"]
    else:  # a virtual environment that is not activated
        python = Path(sys.executable)
        known = shutil.which(python.name)
        same = known is not None and Path(known).resolve() == python.resolve()
        start = [python.name if same else str(python), "-m", "scenestore"]
    return shlex.join([*start, *map(str, words)])


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def console() -> Console:
    """Return a console as wide as the terminal, or as ``COLUMNS`` says."""
    from rich.console import Console  # takes 50 ms to load

    found = Console(highlight=False)
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(width=PIPE_WIDTH, highlight=False)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], title: str = "") -> None:
    """Print a table that fits the terminal; no cell is wrapped.

    On a narrow terminal, what is below the numbers is left out, then columns, then the ends of
    texts. A last line says so.

    Args:
        columns: the columns.   rows: a cell per column.   title: the line above.
    """
    from rich import box  # takes 50 ms to load
    from rich.table import Table
    from rich.text import Text

    screen = console()
    shown, below, widths = _layout(columns, rows, screen.width)
    padding = (0, GAP - 1, 0, 0)  # the box adds a space between columns
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False)
    for at in shown:
        justify: Any = "right" if columns[at].right else "left"
        table.add_column(Text(columns[at].head), justify=justify, no_wrap=True)
    for row in rows:
        cells = []
        for at in shown:
            text, under = _parts(row[at])
            lines = [text, *under.split("\n")] if at in below and under else [text]
            cut = [_cut(line, widths[at], columns[at].cut) for line in lines]
            cells.append(Text("\n".join(cut)))
        table.add_row(*cells)
    if title:
        screen.print(Text(_cut(title, screen.width, "end"), "bold"), no_wrap=True)
    screen.print(table, no_wrap=True, crop=False)
    hidden = [
        column.head.replace("\n", " ").strip()
        for at, column in enumerate(columns)
        if at not in shown
    ]
    if hidden:
        text = f"not shown in {screen.width} columns: {', '.join(hidden)}"
        screen.print(Text(_cut(text, screen.width, "end"), "dim"), no_wrap=True)


def fitted(text: str, taken: int = 0) -> str:
    """Return a line with its end cut where the terminal ends, after ``taken`` characters."""
    screen = console()
    if not screen.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        return text
    return _cut(text, max(screen.width - taken, LEAST), "end")


def _layout(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int
) -> tuple[list[int], set[int], dict[int, int]]:
    """Return the columns to show, those with what is below, and the width of each."""
    every = range(len(columns))
    kept = {at for at in every if columns[at].keep}
    ranks = sorted({column.rank for column in columns}, reverse=True)
    options = [(ranks[0], {*every}), *((rank, kept) for rank in ranks), (ranks[-1], set[int]())]
    shown: list[int] = []
    below: set[int] = set()
    for rank, below in options:
        shown = [at for at in every if columns[at].rank <= rank]
        widths = {at: _width(columns[at], [row[at] for row in rows], at in below) for at in shown}
        flexible = [at for at in shown if columns[at].cut]
        room = (
            width - GAP * (len(shown) - 1) - sum(widths[at] for at in shown if at not in flexible)
        )
        wanted = sum(widths[at] for at in flexible)
        enough = sum(min(widths[at], 2 * LEAST) for at in flexible)
        if room >= wanted or (rank, below) == options[-1] or (flexible and room >= enough):
            break
    for at in sorted(flexible, key=lambda at: widths[at]):  # short texts keep their width
        widths[at] = max(min(widths[at], room // max(len(flexible), 1)), 1)
        room -= widths[at]
        flexible = flexible[1:]
    return shown, below, widths


def _width(column: Column, cells: Sequence[Cell], below: bool) -> int:
    from rich.cells import cell_len  # takes 50 ms to load

    lines = column.head.split("\n")
    for cell in cells:
        text, under = _parts(cell)
        lines += [text, *under.split("\n")] if below else [text]
    return max(map(cell_len, lines))


def _parts(cell: Cell) -> tuple[str, str]:
    return (cell, "") if isinstance(cell, str) else cell


def _cut(text: str, width: int, where: str) -> str:
    """Return a text of at most ``width`` cells of a terminal."""
    from rich.cells import cell_len, set_cell_size  # takes 50 ms to load

    text = " ".join(text.split("\n"))
    if not where or cell_len(text) <= width:
        return text
    mark = "\N{HORIZONTAL ELLIPSIS}"
    if where == "end":
        return set_cell_size(text, width - 1).rstrip() + mark
    kept = text
    while cell_len(kept) > width - 1:
        kept = kept[1:]
    return mark + kept
