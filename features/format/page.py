"""Generate the format page: ``python -m features.format.page > docs/format.md``."""

from __future__ import annotations

import sys
from importlib import resources
from string import Template

from features.format.schema import FORMAT_NAME, FORMAT_VERSION, GROUPS, ROLES, Column


def format_page() -> str:
    """Return ``docs/format.md`` as text."""
    lines = []
    for group in GROUPS.values():
        lines += [f"## Group `{group.name}`", "", group.doc, ""]
        lines += ["| column | kind | dtype | rows | row shape | meaning |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [*map(_row, group.columns), ""]
    page = resources.files("features.format").joinpath("data/page.md").read_text(encoding="utf-8")
    return Template(page).substitute(
        name=FORMAT_NAME,
        version=FORMAT_VERSION,
        roles=", ".join(f"{code} {name}" for code, name in enumerate(ROLES)),
        groups="\n".join(lines).rstrip(),
    )


def _row(column: Column) -> str:
    allowed = next(iter(column.parts().values()))
    dtype = {"text": "UTF-8", "coded": "string"}.get(column.kind, " or ".join(allowed))
    shape = ", ".join(map(str, column.shape)) or "-"
    doc = column.doc.replace('""', "empty") + (" (optional)" if column.optional else "")
    rows = f"{column.axis}, + 1" if column.kind == "offsets" else column.axis
    return f"| `{column.name}` | {column.kind} | {dtype} | {rows} | {shape} | {doc} |"


if __name__ == "__main__":
    sys.stdout.write(format_page())
