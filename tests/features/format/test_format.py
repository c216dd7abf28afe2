"""docs/format.md: up to date, and enough to read a store without this project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from features.format.page import format_page


def test_docs_format_is_made_from_the_schema():
    page = Path(__file__).parents[3] / "docs" / "format.md"
    assert page.read_text() == format_page()


def test_docs_format_is_enough_to_read_a_store_with_h5py_alone(tiny_records):
    """Runs the example of docs/format.md, which imports nothing of this project."""
    records = tiny_records(images=70)
    page = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    assert "import features" not in code
    assert "from features" not in code
    command = [sys.executable, "-c", code, str(records.path.parent), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    found = records.visual[3]
    assert shown["image"] == records.entries[3].id
    assert shown["captions"] == [caption.text for caption in records.entries[3].captions]
    assert shown["labels"] == list(found.labels)
    assert shown["relations"] == [list(edge) for edge in found.relations]
    assert shown["tokens"] == [list(graph.tokens) for graph in records.texts[15:20]]
    wanted = records.regions[3][0].astype(np.float16)
    assert shown["first feature"] == wanted[0].astype(float).tolist()
