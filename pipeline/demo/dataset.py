"""Files of the demo: its packaged tables, and captions in Karpathy's schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any


def read_tables(file: str) -> dict[str, Any]:
    """Read a file in the folder ``data``."""
    text = resources.files("pipeline.demo").joinpath("data", file).read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def write_captions_file(
    path: Path, name: str, images: Iterable[tuple[str, str, Sequence[str]]]
) -> None:
    """Write the captions of a data set in Karpathy's schema.

    Args:
        path: the JSON file.   name: name of the data set.
        images: (file name, split, five captions) of each image.
    """
    entries = []
    for number, (file, split, captions) in enumerate(images):
        sentences = [
            {
                "raw": caption,
                "tokens": re.findall(r"[a-z]+", caption.lower()),
                "imgid": number,
                "sentid": sentid,
            }
            for sentid, caption in enumerate(captions, 5 * number)
        ]
        sentids = [sentence["sentid"] for sentence in sentences]
        entry = {"filename": file, "imgid": number, "split": split, "sentids": sentids}
        entries.append({**entry, "sentences": sentences})
    write_json(path, {"dataset": name, "images": entries})


def write_json(path: Path, document: object) -> None:
    """Write a JSON file without white space."""
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
