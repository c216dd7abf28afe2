"""``python -m pipeline``: parse captions, detect objects, fit and evaluate, from the shell."""

from __future__ import annotations

import argparse

from features.commands.program import exit_cleanly
from pipeline.commands import photo as cli_photo
from pipeline.commands import text as cli_text
from pipeline.commands import vision as cli_vision

__all__ = ["cli", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    cli_text.add_commands(commands)
    cli_vision.add_commands(commands)
    cli_photo.add_commands(commands)
    options = parser.parse_args(arguments)
    return int(options.run(options) or 0)


def cli() -> None:
    """Entry point: one line and an exit code instead of a trace."""
    exit_cleanly(main)


if __name__ == "__main__":
    cli()
