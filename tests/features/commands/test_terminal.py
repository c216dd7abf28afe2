"""Tables that fit the terminal, next commands that run, ``--quiet`` and ``--verbose``, JSON."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys

import pytest

from features.commands import Column, fitted, next_steps, print_table
from features.commands.app import app
from features.errors import StoreError, UsageError
from scenestore import program

COLUMNS = [
    Column("run", cut="start"),
    Column("i2t\nR@1", right=True),
    Column("medr", right=True, rank=1),
    Column("rsum", right=True, keep=True),
    Column("mean", right=True, rank=2),
    Column("caption", cut="end"),
]
ROWS = [
    [f"runs/a/long/name/of/a/folder-{n}", ("50.0", "40.1-60.2"), "3.0", ("301.5", "280.0-320.1"),
     ("55.2", "50.0-60.0"), "two dogs run across a field of grass and one of them barks"]
    for n in range(3)
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_wrapped(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, ROWS, "a title that is longer than forty columns, so that it is cut")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for n in range(3):
        (line,) = [line for line in lines if f"folder-{n}" in line or line.startswith(f"…{n} ")]
        assert "50.0" in line
        assert "301.5" in line  # numbers are never cut
    assert ("280.0-320.1" in "".join(lines)) == (width >= 60)
    assert ("40.1-60.2" in "".join(lines)) == (width >= 80)
    hidden = [line for line in lines if line.startswith("not shown in")]
    assert len(hidden) == (width < 80)


def test_a_pipe_gets_whole_lines(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert fitted("x" * 500) == "x" * 500
    monkeypatch.setenv("COLUMNS", "60")
    assert fitted("x" * 500) == "x" * 59 + "…"
    print_table([Column("a", cut="end")], [["[bold]not markup[/bold] 猫猫"]])
    assert "[bold]not markup[/bold] 猫猫" in capsys.readouterr().out


def test_colours_obey_no_color():
    for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", **more}
        code = "from features.commands import console\nconsole().print('x', style='bold red')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("31m" in done.stdout) == coloured


def test_commands_are_quoted_and_results_stay_alone(capsys):
    next_steps(["find", "a folder", "man - ride - *"], ["show", "it's"])
    out, err = capsys.readouterr()
    assert out == ""
    words = [shlex.split(line.removeprefix("next: ")) for line in err.splitlines()]
    assert [one[-len(end) :] for one, end in zip(words, ([1] * 3, [1] * 2), strict=True)] == [
        ["find", "a folder", "man - ride - *"],
        ["show", "it's"],
    ]


def test_every_next_command_runs(tiny_records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = str(tiny_records(folder=tmp_path / "a store").path.parent)
    asked = [["ls", folder], ["show", folder], ["show", folder, "1002.jpg"], ["verify", folder]]
    asked += [["show", folder, "1002.jpg#1"], ["find", folder, "dog"], ["gc", folder]]
    asked += [["draw", folder, "1002.jpg", "--out", "x.png"], ["parse", "A dog's ball."]]
    ran: set[str] = set()
    for words in asked:
        assert program.call(words) == 0
        steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next: ")]
        assert steps, words
        for step in steps:
            if step in ran or " serve " in step:  # it runs until Ctrl-C
                continue
            ran.add(step)
            command = shlex.split(step.removeprefix("next: "))
            start = command.index("scenestore") + 1
            assert program.call(command[start:]) == 0, step
            capsys.readouterr()
    assert len(ran) >= 8
    assert {"found.html", "report.html", "1002.png"} <= {path.name for path in tmp_path.iterdir()}


def test_quiet_prints_results_only_and_verbose_more(tiny_records, capsys, monkeypatch):
    folder = str(tiny_records().path.parent)
    assert app.call(["ls", folder]) == 0
    usual = capsys.readouterr()
    assert "next: " in usual.err
    assert app.call(["ls", folder, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == (usual.out, "")
    assert app.call(["ls", folder, "--verbose"]) == 0
    assert "MB of memory" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--quiet and --verbose"):
        app.call(["ls", folder, "--verbose", "--quiet"])
    for flags, traced in (([], False), (["--verbose"], True)):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        monkeypatch.setattr(sys, "argv", ["features", "show", folder, "nobody.jpg", *flags])
        with pytest.raises(SystemExit) as left:
            app.run()
        assert left.value.code == 2
        said = sys.stderr.getvalue()
        assert said.splitlines()[-1].startswith("error: unknown image id")
        assert ("Traceback" in said) == traced


def test_tables_are_printed_as_json(tiny_records, capsys):
    records = tiny_records()
    folder = records.path.parent
    for words in (["ls"], ["show"], ["verify"], ["gc"], ["find", "dog"]):
        command, *rest = words
        assert app.call([command, str(folder), *rest, "--json"]) == 0
        out, err = capsys.readouterr()
        json.loads(out)
        assert err == ""
    path = records.open().group("regions").manifest.folder / "00000.h5"
    data = bytearray(path.read_bytes())
    data[-1] ^= 8
    path.unlink()  # read-only
    path.write_bytes(data)
    with pytest.raises(StoreError, match="findings"):
        app.call(["verify", str(folder), "--json"])
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["path"] == str(path)
    assert finding["damaged"] is True


def complete(line: str) -> list[str]:
    """Return what bash offers for a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_SCENESTORE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-m", "scenestore"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_values():
    assert complete("scenestore self") == ["selfcheck"]
    assert {"--split", "--html", "--json"} <= set(complete("scenestore find --"))
    assert set(complete("scenestore find --in ")) == {"images", "captions"}
    script = [sys.executable, "-m", "scenestore", "completion", "bash"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True).returncode == 0
    assert "complete -o default -F" in done.stdout
