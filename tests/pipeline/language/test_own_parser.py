"""The example parser works through the registry."""

from __future__ import annotations

import runpy
from pathlib import Path

from pipeline.parse import parse


def test_the_example_parser_is_found_by_name():
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "examples" / "own_parser.py"))
    graph, empty = parse(["A dog runs.", ""], parser="plain")
    assert graph.tokens == ("A", "dog", "runs")
    assert graph.heads[0] == -1
    assert empty.problem == "empty"
