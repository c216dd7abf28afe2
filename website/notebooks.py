"""Show notebooks of the repository as pages, and run them: ``python -m website.notebooks FOLDER``.

A run needs the store of the tutorial in FOLDER. Outputs that people see are kept; their plain-text
forms, which repeat the drawings in numbers, are removed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
RICH = ("image/svg+xml", "text/html")  # what a page shows of an output, best first


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += [_shown(output) for output in cell.outputs]
    return "\n\n".join(parts) + "\n"


def _shown(output: Any) -> str:
    """Return an output as HTML or as a block of text."""
    data = output.get("data", {})
    for kind in RICH:
        if kind in data:
            body = "".join(line for line in data[kind].splitlines() if line.strip())
            return f'<div class="output">{body}</div>'
    text = output.get("text") or data.get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```"


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder and return it with its outputs. Raises if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if any(kind in data for kind in RICH):
                data.pop("text/plain", None)
    return notebook


if __name__ == "__main__":
    for one in (ROOT / "examples").glob("*.ipynb"):
        nbformat.write(run(one, Path(sys.argv[1])), one)
