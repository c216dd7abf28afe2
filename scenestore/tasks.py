"""The Luigi tasks that users start, as commands: one option per parameter.

``scenestore build`` is ``luigi --module workflows BuildDataset --local-scheduler`` in this process.
Luigi reads the values, and the exit codes are those of Luigi.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import luigi
import typer
from luigi.retcodes import run_with_retcodes

import workflows
from features.commands import Program

__all__ = ["add_text", "build", "compare", "demo"]


def _program(name: str, task: type[luigi.Task], example: str) -> Program:
    """Return a program whose only command runs a task."""
    program = Program(f"scenestore {name}")
    program.command(name, help=inspect.getdoc(task), epilog=f"\b\nExample:\n  {example}")(
        _command(task)
    )
    return program


def _command(task: type[luigi.Task]) -> Callable[..., int]:
    """Return a function with one keyword argument per parameter of a task, for typer."""

    def run(**given: Any) -> int:
        words = ["--module", "workflows", task.__name__, "--local-scheduler"]
        for name, value in given.items():
            if value is True:
                words.append(_flag(name))
            elif value not in (None, False):
                words += [_flag(name), value]
        return _run_luigi(words)

    made: Any = run
    options = [_option(task.__name__, name, one) for name, one in task.get_params()]
    made.__signature__ = inspect.Signature(options, return_annotation=int)
    made.__annotations__ = {one.name: one.annotation for one in options}
    return run


def _option(task: str, name: str, parameter: luigi.Parameter[Any]) -> inspect.Parameter:
    """Return a parameter of a task as a keyword argument; None stands for Luigi's default."""
    default: Any = None
    help = str(parameter.description or "")
    kind: Any = str | None
    metavar: str | None = name.rpartition("_")[2].upper()
    if isinstance(parameter, luigi.BoolParameter):
        kind, default, metavar = bool, False, None
    elif isinstance(parameter, luigi.ChoiceParameter):
        metavar = "|".join(sorted(map(str, parameter._choices)))
        help = help.partition(" Choices: ")[0]  # Luigi's list of them, in any order
    elif isinstance(parameter, luigi.IntParameter):
        metavar = "N"
    if not parameter.has_task_value(task, name):
        default = inspect.Parameter.empty
    elif value := parameter.task_value(task, name):
        help += f" [{value}]"
    details = typer.Option(_flag(name), metavar=metavar, help=help, show_default=False)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, details])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _run_luigi(words: list[str]) -> int:
    try:
        run_with_retcodes(words)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    return 0


build = _program(
    "build",
    workflows.BuildDataset,
    "scenestore build --images-dir photos --captions captions.json --store-dir stores/mine",
)
add_text = _program(
    "add-text", workflows.AddText, "scenestore add-text --store-dir stores/imported"
)
demo = _program("demo", workflows.Demo, "scenestore demo --demo-dir demo")
compare = _program(
    "compare",
    workflows.CompareModels,
    "scenestore compare --papers sgm,gsmn --store stores/mine --out compare",
)
