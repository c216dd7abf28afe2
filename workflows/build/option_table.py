"""Print the options of a build as the Markdown table of docs/howto/building.md.

``python -m workflows.build.option_table``
"""

from __future__ import annotations

import sys

from workflows.build.options import BuildOptions, described
from workflows.build.summary import STAGES


def option_table() -> str:
    """Return one row per option: meaning, default, and the first stage that a change rebuilds."""
    lines = ["| option | meaning | default | first stage rebuilt |", "|---|---|---|---|"]
    for field, _, option in described(BuildOptions):
        default = option.shown or ("" if field.default == "" else f"`{field.default}`")
        flag = f"`--{field.name.replace('_', '-')}`"
        lines.append(f"| {flag} | {option.help} | {default} | {STAGES.get(option.group, '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(option_table())
