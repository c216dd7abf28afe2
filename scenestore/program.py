"""The program ``scenestore``: ``scenestore build``, ``scenestore train``, ``scenestore verify``.

Its commands are the programs of the packages, which can also be started alone:
``scenestore train ...`` is ``python -m models.train ...``. The commands of ``python -m features``
and ``python -m pipeline`` are found in those programs, so a new one needs no line here.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import NoReturn

from typer.main import get_command

from features.commands import Program, exit_cleanly
from features.errors import UnknownName
from scenestore import completion

COMMANDS = {  # command -> the program of this one command
    "build": "scenestore.tasks:build",
    "add-text": "scenestore.tasks:add_text",
    "demo": "scenestore.tasks:demo",
    "train": "models.train:app",
    "evaluate": "models.evaluate:app",
    "search": "models.search:app",
    "serve": "models.serve:app",
    "report": "models.report:app",
    "selfcheck": "models.selfcheck:app",
    "embed": "models.export:app",
    "compare": "scenestore.tasks:compare",
    "verify-result": "models.verify:app",
    "docs": "scenestore.docs:app",
    "completion": "scenestore.completion:app",
}
GROUPS = {  # title -> a program of several commands
    "Stores": "features.commands.app:app",
    "Captions and photos": "pipeline.commands.app:app",
}


def main() -> NoReturn:
    """Run the command that the arguments name, and leave the process."""
    if completion.VARIABLE in os.environ:  # a shell asks
        completion.complete(loaders())
    exit_cleanly(lambda: call(sys.argv[1:]))


def call(words: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Args:
        words: name and arguments of the command.

    Raises: UnknownName: no such command. ScenestoreError: as the command raises it.
    """
    name, rest = (words[0], words[1:]) if words else ("--help", ())
    if name in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    if name == "--version":
        sys.stdout.write(f"scenestore {version('scenestore')}\n")
        return 0
    if name in COMMANDS:
        return _program(COMMANDS[name]).call(rest, prog=f"scenestore {name}")
    known = list(COMMANDS)
    for place in GROUPS.values():
        program = _program(place)
        if name in _summaries(program):
            return program.call(words, prog="scenestore")
        known += _summaries(program)
    raise UnknownName(f"{UnknownName.of('command', name, known)} Run 'scenestore --help' for help.")


def loaders() -> dict[str, Callable[[], Program]]:
    """Return a function for each command that loads its program."""
    places = dict(COMMANDS)
    for place in GROUPS.values():
        places |= dict.fromkeys(_summaries(_program(place)), place)
    return {name: functools.partial(_program, place) for name, place in places.items()}


def _program(place: str) -> Program:
    module, _, name = place.partition(":")
    program: Program = getattr(importlib.import_module(module), name)
    return program


def _summaries(program: Program) -> dict[str, str]:
    """Return the first sentence of each command of a program."""
    command = get_command(program)
    several = getattr(command, "commands", None) or {str(command.name): command}
    return {name: _first(one.help or "") for name, one in several.items() if not one.hidden}


def _first(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _help() -> str:
    lines = ["Usage: scenestore COMMAND [OPTIONS] [ARGUMENTS]", ""]
    lines += ["Photos and captions in; scene graphs, features and models out.", ""]
    alone = {name: next(iter(_summaries(_program(one)).values())) for name, one in COMMANDS.items()}
    parts = {"Builds and models": alone}
    for title, place in GROUPS.items():
        found = _summaries(_program(place))
        parts[title] = {name: text for name, text in found.items() if name not in COMMANDS}
    width = max(len(name) for commands in parts.values() for name in commands)
    for title, commands in parts.items():
        lines.append(f"{title}:")
        lines += [f"  {name:{width}}  {text}" for name, text in commands.items()]
        lines.append("")
    lines.append("Run 'scenestore COMMAND --help' for the options of a command.")
    return "\n".join(lines) + "\n"
