"""Parse texts that are not in a store, in another process: models need no parser."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from features.convert import clean_text
from features.errors import InputError, UsageError
from features.records import TextGraph

if TYPE_CHECKING:
    from features.store import Store


def parse_texts(texts: Sequence[str], *, parser: str, profile: str) -> list[TextGraph]:
    """Parse texts by ``python -m pipeline parse``.

    Args:
        texts: the texts, cleaned as captions are.
        parser, profile: see ``python -m pipeline parse``.

    Raises: UsageError: they cannot be parsed; the message is the parser's.
    """
    command = [sys.executable, "-m", "pipeline", "parse", "--json"]
    command += ["--parser", parser, "--profile", profile, "--", "-"]
    lines = "".join(clean_text(text) + "\n" for text in texts)
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    found = done.stdout.split("\n")[:-1]  # other marks of lines are part of texts
    if done.returncode or len(found) != len(texts):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(f"the captions could not be parsed: {reason.removeprefix('error: ')}")
    return [read_graph(line) for line in found]


def read_graph(document: str) -> TextGraph:
    """Return the first parsed caption in the JSON of ``pipeline parse --json``.

    Raises: InputError: not such a document.
    """
    try:
        value = json.loads(document)
        record: Mapping[str, Any] = value[0] if isinstance(value, list) else value
        names = {item.name for item in dataclasses.fields(TextGraph)}
        return TextGraph(**{k: _tuples(v) for k, v in record.items() if k in names})
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"not a parsed caption: {document[:80]!r} ({error}).") from error


def stored_profile(store: Store) -> str:
    """Return the triplet profile that the store's captions were parsed with."""
    params = store.group("text").manifest.params
    return str(params.get("parameters", {}).get("profile", "extended"))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
