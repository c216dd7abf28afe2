"""The commands ``parse`` and ``rules``."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.app import app
from pipeline.commands.text import draw_arcs
from pipeline.language.spice.rules import markdown


def test_table_shows_tokens_arcs_and_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.call(["parse", "A man rides a brown horse."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A man rides a brown horse."
    row = next(line for line in lines if line.startswith("2 "))
    assert row.split()[:6] == ["2", "rides", "ride", "VERB", "VBZ", "relation"]
    assert row.endswith("(root)")
    assert "object     horse · brown" in lines
    assert "relation   man -- ride -> horse" in lines


def test_json_has_one_object_per_caption(capsys: pytest.CaptureFixture[str]) -> None:
    app.call(["parse", "--json", "--profile", "spice", "A dog sits on a mat.", "", "x\ud800"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["problem"] for one in found] == ["", "empty", ""]
    assert found[0]["triplets"] == [["dog", "sit on", "mat"]]
    assert found[0]["heads"] == [1, 2, -1, 5, 5, 2, 2]
    assert found[0]["scheme"] == "ud"


def test_captions_come_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("A dog runs.\nA cat sits.\n"))
    app.call(["parse", "--json", "--scheme", "clear", "-"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["caption"] for one in found] == ["A dog runs.", "A cat sits."]
    assert found[0]["scheme"] == "clear"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    app.call(["parse", "A \x1b[31mdog\x07 runs."])
    assert set(capsys.readouterr().out) & {"\x1b", "\x07"} == set()


def test_rules_command_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.call(["rules"]) == 0
    assert capsys.readouterr().out == markdown()


def test_arcs_of_a_small_tree() -> None:
    assert draw_arcs((1, -1, 1)) == ["┌>", "├─", "└>"]
    assert draw_arcs((1, 2, -1, 5, 5, 2, 2))[3:] == ["││┌─>", "│││┌>", "│└┴┴>", "└───>"]


@given(st.data())
def test_arcs_keep_their_columns_apart(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    heads = tuple(data.draw(st.integers(-1, at - 1)) if at else -1 for at in range(n))
    lines = draw_arcs(heads)
    assert len(lines) == n
    assert len({len(line) for line in lines}) == 1
    assert [line.endswith(">") for line in lines] == [head >= 0 for head in heads]
