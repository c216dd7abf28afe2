"""Write the reference of all commands from their parsers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from scenestore.program import COMMANDS, GROUPS


def commands_page() -> str:
    """Return the page: usage, arguments and options of each command."""
    parts: list[str] = []
    listed = {"Builds and models": list(COMMANDS.items())}
    listed |= {title: [("", place)] for title, place in GROUPS.items()}
    for title, places in listed.items():
        parts.append(f"## {title}\n")
        for name, place in places:
            command = get_command(_program(place))
            for key, one in (getattr(command, "commands", None) or {name: command}).items():
                if not one.hidden:
                    parts.append("\n".join(_section(name or key, one)))
    return "\n".join(parts)


def _program(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _section(name: str, command: Any) -> Iterator[str]:
    yield f"### scenestore {name}\n"
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = [f"scenestore {name}", *(_shown(one) for one in arguments), "[OPTIONS]"]
    yield "```text\n" + " ".join(words) + "\n```\n"
    yield from _help(command.help or "")
    rows = [one for one in command.params if not getattr(one, "hidden", False)]
    rows = [one for one in rows if one.name != "help" and (one not in arguments or one.help)]
    if rows:
        yield "| | meaning | default |\n|---|---|---|"
        for one in rows:
            yield f"| {_flag(one)} | {_cell(one.help or '')} | {_default(one)} |"
        yield ""
    yield from _help(command.epilog or "")


def _help(text: str) -> Iterator[str]:
    """Yield paragraphs; those that click prints as they are become blocks."""
    for part in text.replace("\f", "").split("\n\n"):
        if part.strip().startswith("\b"):
            yield "```text\n" + part.replace("\b\n", "").replace("\b", "").strip("\n") + "\n```\n"
        elif part.strip():
            yield " ".join(part.split()).replace("<", "&lt;").replace("*", r"\*") + "\n"


def _shown(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _flag(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{_shown(option)}`".replace("|", r"\|")
    names = " ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    return f"`{names}{value}`".replace("|", r"\|")


def _kind(option: Any) -> str:
    """Return N for a number, and otherwise the name of the option."""
    kind = option.type_descriptor.annotation
    return "N" if kind in (int, float) else option.name.rpartition("_")[2].upper()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("*", r"\*").replace("<", "&lt;")


def _default(option: Any) -> str:
    value = option.default
    if callable(value) or value in (None, "", (), [], False) or "Ellipsis" in repr(value):
        return "required" if getattr(option, "required", False) else ""
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return f"`{value}`"
