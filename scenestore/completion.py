"""Shell completion of ``scenestore``: its commands, their options and the values of options."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from features.commands import Program

VARIABLE = "_SCENESTORE_COMPLETE"
START = {
    "bash": 'eval "$(scenestore completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(scenestore completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "scenestore completion fish | source  # in ~/.config/fish/config.fish",
}

app = Program("scenestore completion")


@app.command("completion", epilog="\b\n" + "\n".join(["To complete commands:", *START.values()]))
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="bash|zsh|fish")],
) -> None:
    """Print the script that completes commands and options in a shell."""
    os.environ[VARIABLE] = f"source_{shell}"
    complete({})


def complete(programs: dict[str, Callable[[], Program]]) -> None:
    """Answer the shell, as the environment variable says, and leave the process.

    Args:
        programs: command -> a function that loads the program with this command. Only the program
            of the command that is being typed is loaded.
    """
    words = (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()
    whole: Any = typer.Typer(add_completion=True, rich_markup_mode=None)
    typed = words[1] if len(words) > 1 else ""
    for name in programs:
        info = _command(programs[name](), name) if name == typed else None
        if info is None:
            whole.command(name)(_nothing)
        else:
            settings = {"cls": info.cls, "context_settings": info.context_settings}
            whole.command(name, **settings)(info.callback)
    whole.command("help", hidden=True)(_nothing)  # with one command, its name would be left out
    sys.argv[0] = "scenestore"
    whole(prog_name="scenestore", args=[])


def _command(program: Program, name: str) -> Any:
    """Return a command of a program by its name, or its only one."""
    found = [*program.registered_commands]
    for group in program.registered_groups:
        found += getattr(group.typer_instance, "registered_commands", [])
    return next((one for one in found if one.name == name), found[0] if len(found) == 1 else None)


def _nothing() -> None:
    """Stand for a command whose program is not loaded."""
