"""Tell what a model is: ``python -m models.selfcheck RUN|CONFIG [--section.key value ...]``.

It prints which reading of every disputed step a run folder or configuration has, and which
published row it equals, if any: what a reader of a table needs to know about its numbers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from features.commands import Program, next_steps, print_json
from models.configuration import Config, load
from models.reporting import Match, Reading, published_rows, readings

__all__ = ["app", "explain"]

app = Program("python -m models.selfcheck", plugins=True)


@app.command(
    "selfcheck",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def selfcheck(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(metavar="RUN|CONFIG", help="A run folder, or a configuration or its name."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the reading of every disputed step, and the published row that it equals.

    Options of a configuration can be changed as for models.train: --model.options.maxk 1.
    """
    folder = Path(what) / "config.yaml"
    config = load(folder if folder.is_file() else what, context.args)
    if as_json:
        print_json(
            {
                "model": config.model.name,
                "readings": [dataclasses.asdict(one) for one in readings(config)],
                "published": [dataclasses.asdict(one) for one in published_rows(config)],
            }
        )
        return
    typer.echo(explain(what, config), nl=False)
    if config.data.store:
        next_steps(["train", what, *context.args])


def explain(name: str, config: Config) -> str:
    """Return the readings and published rows of a configuration as text."""
    found = readings(config)
    lines = [f"{config.model.name}: {name}", ""]
    lines += _table(found)
    rows = published_rows(config)
    equal = [row for row in rows if not row.differences]
    lines += ["", *(_published(row) for row in equal)]
    if not equal:
        lines.append("equals no published row")
        lines += [f"  nearest: {_published(row)}" for row in rows[:1]]
        lines += [f"    {one}" for row in rows[:1] for one in row.differences]
    return "\n".join(lines) + "\n"


def _table(found: list[Reading]) -> list[str]:
    lines = []
    for one in found:
        lines += [one.step, f"    {one.option} = {one.value}"]
        lines += [f"    {one.meaning}"] if one.meaning else []
    return lines


def _published(row: Match) -> str:
    numbers = ", ".join(f"{key} {value:g}" for key, value in row.numbers.items())
    part = "a part of the ensemble of " if row.part else ""
    return f"{part}published row {row.row} ({row.source}, {row.label}, {row.protocol}): {numbers}"


if __name__ == "__main__":
    app.run()
