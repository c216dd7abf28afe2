"""Print the options of a build as the Markdown table of the README.

``python -m workflows.build.option_table``
"""

from __future__ import annotations

import sys
from typing import Literal, get_args, get_origin

from workflows.build.options import BuildOptions, described
from workflows.build.summary import STAGES


def option_table() -> str:
    """Return one row per option: values, default and the first stage that a change rebuilds."""
    lines = ["| option | values | default | first stage rebuilt |", "|---|---|---|---|"]
    for field, kind, option in described(BuildOptions):
        values = option.values or option.help
        if get_origin(kind) is Literal:
            values = f"{values}: {', '.join(f'`{value}`' for value in get_args(kind))}"
        default = option.shown or ("" if field.default in ("", None) else f"`{field.default}`")
        flag = f"`--{field.name.replace('_', '-')}`"
        cells = (flag, values, default, STAGES.get(option.group, ""))
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines).replace("|  |", "| |") + "\n"


if __name__ == "__main__":
    sys.stdout.write(option_table())
