"""Programs: exit codes, one-line errors, options with several values, mounting."""

import subprocess
import sys
from typing import Annotated

import pytest
import typer

from features.commands.program import Program, exit_cleanly
from features.errors import StoreError, UsageError


def made() -> Program:
    app = Program("toy", help="A toy.")

    @app.command("add")
    def add(
        numbers: Annotated[list[int], typer.Argument(metavar="NUMBER")],
        plus: Annotated[list[int], typer.Option(metavar="N...")] = [],  # noqa: B006
        also: Annotated[list[int], typer.Option(metavar="[N]...")] = [],  # noqa: B006
        tag: Annotated[list[str], typer.Option(metavar="TAG")] = [],  # noqa: B006
    ) -> int:
        """Add numbers."""
        sys.stdout.write(f"{sum(numbers) + sum(plus) + sum(also)} {tag}\n")
        return 3

    @app.command("fail")
    def fail() -> None:
        """Fail."""
        raise StoreError("disk full")

    return app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("add 1 2", "3 []"),
        ("add 1 --plus 2 3 --tag a --tag b", "6 ['a', 'b']"),
        ("add --tag a 1 --plus 2 --plus 3 --also", "6 ['a']"),
        ("add --also 1 2 --plus=4 -- 8", "15 []"),
    ],
)
def test_options_take_several_values(words, said, capsys):
    assert made().call(words.split()) == 3
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Missing command. Run 'toy --help' for help."),
        ("ad 1", "No such command 'ad'. Did you mean 'add'? Run 'toy --help' for help."),
        ("add", "Missing argument 'NUMBER'. Run 'toy add --help' for help."),
        ("add 1 --plus", "Option '--plus' requires at least one N."),
        ("add 1 --plus --also 2", "Option '--plus' requires at least one N."),
        ("add x", "Invalid value for 'NUMBER': "),
        ("add 1 --nope", "No such option: --nope. Run 'toy add --help' for help."),
    ],
)
def test_wrong_arguments_are_one_line(words, message):
    with pytest.raises(UsageError) as error:
        made().call(words.split())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_help_is_plain_text(capsys):
    app = made()
    for words in (["--help"], ["-h"]):
        assert app.call(words) == 0
        shown = capsys.readouterr().out
        assert "Usage: toy" in shown
        assert "Add numbers." in shown
        assert shown.isascii()
    assert app.call(["add", "--help"]) == 0
    assert "Usage: toy add" in capsys.readouterr().out


def test_a_single_command_needs_no_name_and_programs_mount(capsys):
    one = Program("python -m one")

    @one.command("greet")
    def greet(name: str) -> None:
        """Greet."""
        sys.stdout.write(f"hello {name}\n")

    assert one.call(["you"]) == 0
    both = Program("scenestore")
    both.add_typer(made())
    both.add_typer(one)
    both.add_typer(one, name="more")
    assert both.call(["greet", "you"]) == both.call(["more", "greet", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n" * 3
    with pytest.raises(UsageError, match="Run 'scenestore more greet --help' for help"):
        both.call(["more", "greet"])


def raising(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 75, 75, ""),
        (lambda: made().call([]), 2, "error: Missing command. Run 'toy --help' for help.\n"),
        (lambda: made().call(["fail"]), 1, "error: disk full\n"),
        (lambda: raising(KeyboardInterrupt()), 130, ""),
        (
            lambda: raising(PermissionError(13, "Permission denied", "a/b")),
            1,
            "error: a/b: Permission denied. Check it and run again.\n",
        ),
    ],
)
def test_exit_codes(main, code, said, capsys):
    with pytest.raises(SystemExit) as left:
        exit_cleanly(main)
    assert left.value.code == code
    assert capsys.readouterr().err == said


def test_a_full_disk_under_the_output_is_an_error_of_one_line():
    program = (
        "from features.commands.program import exit_cleanly\n"
        "exit_cleanly(lambda: [print('x' * 999) for _ in range(99)] and 0)\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE)
    said = b"error: the output: No space left on device. Check it and run again.\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_closed_pipe_ends_the_program_quietly():
    program = (
        "from features.commands.program import exit_cleanly\n"
        "exit_cleanly(lambda: [print('x' * 999) for _ in range(9999)] and 0)\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with started:
        started.stdout.readline()
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 141
