"""The commands of ``python -m features`` and what every Scenestore program shares."""

from features.commands.program import Program, exit_cleanly
from features.commands.progress import Progress, clock
from features.commands.terminal import console

__all__ = ["Program", "Progress", "clock", "console", "exit_cleanly"]
