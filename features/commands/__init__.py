"""The commands of ``python -m features`` and what every Scenestore program shares."""

from features.commands.program import Program, exit_cleanly

__all__ = ["Program", "exit_cleanly"]
