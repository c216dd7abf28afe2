"""The commands of ``python -m features`` and what every Scenestore program shares."""

from features.commands.program import Program, exit_cleanly
from features.commands.progress import Progress, clock
from features.commands.serving import (
    AllowHost,
    Host,
    ImagesDir,
    NoToken,
    Port,
    Stores,
    serve_stores,
)
from features.commands.terminal import (
    Cell,
    Column,
    command_line,
    console,
    fitted,
    next_steps,
    note,
    print_json,
    print_table,
)

__all__ = [
    "AllowHost",
    "Cell",
    "Column",
    "Host",
    "ImagesDir",
    "NoToken",
    "Port",
    "Program",
    "Progress",
    "Stores",
    "clock",
    "command_line",
    "console",
    "exit_cleanly",
    "fitted",
    "next_steps",
    "note",
    "print_json",
    "print_table",
    "serve_stores",
]
