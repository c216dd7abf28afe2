"""The program ``scenestore``: its commands, and Luigi tasks as commands."""

import argparse
import dataclasses
import re

import pytest

from features.errors import UnknownName, UsageError
from scenestore import program, tasks
from workflows.build import BuildOptions
from workflows.settings import list_options_once


def test_help_lists_every_command_once_and_unknown_ones_are_corrected(capsys):
    assert program.call([]) == 0
    shown = re.findall(r"^  (\S+)  +\S", capsys.readouterr().out, re.M)
    assert len(shown) == len(set(shown))
    assert {*program.COMMANDS, "ls", "verify", "import", "parse", "detect"} <= set(shown)
    with pytest.raises(UnknownName, match=r"'evaluat'\. Did you mean 'evaluate'"):
        program.call(["evaluat"])
    with pytest.raises(UsageError, match="Run 'scenestore verify --help' for help"):
        program.call(["verify", "--no-such-option"])
    with pytest.raises(UsageError, match="Run 'scenestore train --help' for help"):
        program.call(["train"])


def test_a_build_has_every_option_once_and_passes_on_what_is_given(capsys, monkeypatch):
    assert program.call(["build", "--help"]) == 0
    shown = re.findall(r"^  (--\S+)", capsys.readouterr().out, re.M)
    names = ["--" + one.name.replace("_", "-") for one in dataclasses.fields(BuildOptions)]
    assert sorted(shown) == sorted([*names, "--quiet", "--verbose"])
    ran = []
    monkeypatch.setattr(tasks, "run_with_retcodes", ran.append)
    assert program.call(["build", "--jobs", "3", "--store-dir=st", "--detector", ""]) == 0
    given = {"--jobs": "3", "--store-dir": "st", "--detector": ""}
    words = ran[0][4:]
    assert dict(zip(words[::2], words[1::2], strict=True)) == given
    assert ran[0][:4] == ["--module", "workflows", "BuildDataset", "--local-scheduler"]
    program.call(["compare", "--store", "st", "--list"])
    assert ran[1][4:] == ["--store", "st", "--list"]
    with pytest.raises(UsageError, match="--store-dir"):
        program.call(["add-text"])


def test_luigis_help_describes_an_option_of_a_task_once():
    class Parser:
        @staticmethod
        def _build_parser(root_task=None, help_all=False):
            parser = argparse.ArgumentParser(add_help=False)
            for flag in ("--BuildDataset-jobs", "--jobs"):
                parser.add_argument(flag, help="local worker processes")
            return parser

    list_options_once(Parser)
    list_options_once(Parser)
    parser = Parser._build_parser("BuildDataset")
    assert parser.format_help().count("local worker processes") == 1
    assert parser.parse_args(["--BuildDataset-jobs", "2"]).BuildDataset_jobs == "2"
    assert Parser._build_parser().format_help().count("local worker processes") == 2
