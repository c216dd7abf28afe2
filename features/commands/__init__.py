"""The commands of ``python -m features`` and what every Scenestore program shares."""

from features.commands.program import Program, exit_cleanly
from features.commands.progress import Progress, clock
from features.commands.serving import AllowHost, Host, ImagesDir, Port, Stores, serve_stores
from features.commands.terminal import console

__all__ = [
    "AllowHost",
    "Host",
    "ImagesDir",
    "Port",
    "Program",
    "Progress",
    "Stores",
    "clock",
    "console",
    "exit_cleanly",
    "serve_stores",
]
