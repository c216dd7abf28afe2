"""The commands of ``python -m features`` and what every Scenestore program shares."""

from features.commands.program import Program, exit_cleanly
from features.commands.progress import Progress

__all__ = ["Program", "Progress", "exit_cleanly"]
