"""The console that tables are printed on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # a pipe has no width, and nothing must be cut there


def console() -> Console:
    """Return a console as wide as the terminal, or as ``COLUMNS`` says."""
    from rich.console import Console  # takes 50 ms to load

    found = Console()
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(width=PIPE_WIDTH)
