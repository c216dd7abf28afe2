"""Command-line programs: typer apps with one-line errors and exit codes.

Every program of Scenestore is a ``Program``, and one program can mount another::

    app = Program("python -m models.evaluate", help="Evaluate trained runs.")

    @app.command("evaluate")
    def evaluate(store: Annotated[Path, typer.Argument(metavar="STORE", help="...")]) -> int: ...

    app.call(["--help"])    # what tests call: returns the exit code, raises ScenestoreError
    app.run()               # what ``__main__`` and console scripts call: leaves the process
    scenestore = Program("scenestore")
    scenestore.add_typer(app)               # adds the command ``scenestore evaluate``
    scenestore.add_typer(app, name="runs")  # adds the command ``scenestore runs evaluate``

A program with a single command runs it without its name. A command returns its exit code or None.
The annotations of its parameters are evaluated at run time, so their imports cannot be guarded by
``TYPE_CHECKING``; imports of heavy libraries belong into the body of the command.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import functools
import inspect
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand
from typer.main import get_command

from features.commands import terminal
from features.errors import MissingDependency, ScenestoreError, UsageError
from features.plugins import load_plugins

EXTRAS = {  # optional packages, and the extra of scenestore that installs them
    "torch": "train",
    "safetensors": "train",
    "pyarrow": "train",
    "matplotlib": "viz",
    "jinja2": "viz",
    "flask": "web",
    "stanza": "stanza",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "transformers": "transformers",
    "pycocotools": "eval",
    "dask_jobqueue": "slurm",
}

F = TypeVar("F", bound=Callable[..., Any])


class Program(typer.Typer):
    """A typer app without rich markup, completion flags and decorated tracebacks.

    Args:
        prog: how users start it, as shown in help and errors: ``python -m features``.
        plugins: its commands have an option ``--plugins`` for modules that register plug-ins.
        settings: passed on to ``typer.Typer``, for example ``help`` and ``epilog``.
    """

    def __init__(self, prog: str, *, plugins: bool = False, **settings: Any) -> None:
        names = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        super().__init__(
            **settings,
            add_completion=False,
            context_settings=names,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
        )
        self.prog, self.plugins = prog, plugins

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        """Register the decorated function as a command, see ``typer.Typer.command``."""
        register = super().command(name, **{"cls": Command, **settings})

        def add(function: F) -> F:
            register(_with_shared_options(function, plugins=self.plugins))
            return function

        return add

    def call(self, arguments: Sequence[str] | None = None, prog: str = "") -> int:
        """Run a command and return its exit code.

        Args:
            arguments: without the program's name; None: those of the process.
            prog: how the user started it, if not as ``self.prog``.

        Raises:
            UsageError: the arguments are wrong; the message names the help to read.
            ScenestoreError: as the command raises it.
        """
        words = sys.argv[1:] if arguments is None else list(arguments)
        command = get_command(self)
        try:
            with command.make_context(prog or self.prog, words) as context:
                return int(command.invoke(context) or 0)
        except typer.Exit as left:
            return left.exit_code
        except typer.TyperException as error:
            at = getattr(error, "ctx", None)  # where in the tree of commands
            path = at.command_path if at is not None else prog or self.prog
            message = " ".join(error.format_message().split())
            message += "" if message[-1:] in ".?!" else "."
            raise UsageError(f"{message} Run '{path} --help' for help.") from None

    def run(self) -> NoReturn:
        """Run a command of this process's arguments and leave the process."""
        with contextlib.suppress(ValueError, OSError, AttributeError):  # no standard error
            if not faulthandler.is_enabled():
                faulthandler.enable()  # a map of a file that is cut kills the process: say where
        exit_cleanly(self.call)


class Command(TyperCommand):
    """A command whose options can take several values after one flag: ``--splits train val``.

    These are the list options whose ``metavar`` ends in three dots: ``SPLIT...`` for one value or
    more, ``[DIR]...`` where there may be none. Other list options take one value a flag.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such a flag in front of each of its values, then parse as typer does."""
        several = {
            flag: option.metavar
            for option in self.params
            for flag in option.opts
            if option.metavar and option.metavar.endswith("...") and flag.startswith("-")
        }
        return super().parse_args(ctx, list(_spread(args, several)))


def _with_shared_options(function: F, *, plugins: bool) -> F:
    """Return a command with the options that all commands have.

    ``--quiet`` and ``--verbose`` set how much it prints. The modules of ``--plugins`` are imported
    before it starts.
    """

    @functools.wraps(function)
    def command(*args: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> Any:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose: pass one of them.")
        terminal.set_level(int(verbose) - int(quiet))
        if plugins:
            load_plugins(options.pop("plugins", ""))
        started = time.perf_counter()
        left = function(*args, **options)
        if verbose:
            sys.stderr.write(_spent(time.perf_counter() - started))
        return left

    shared: dict[str, Any] = {
        "quiet": Annotated[bool, typer.Option("--quiet", help="Print results only.")],
        "verbose": Annotated[
            bool, typer.Option("--verbose", help="Also print time, memory and stack traces.")
        ],
    }
    defaults: dict[str, Any] = dict.fromkeys(shared, False)
    if plugins:
        option = typer.Option(
            metavar="MODULES", help="Modules or files that register plug-ins (docs/plugins.md)."
        )
        shared = {"plugins": Annotated[str, option], **shared}
        defaults["plugins"] = ""
    declared = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation
        )
        for name, annotation in shared.items()
    ]
    parameters = [*declared.parameters.values(), *more]
    changed: Any = command
    changed.__signature__ = declared.replace(parameters=parameters)
    changed.__annotations__ = {one.name: one.annotation for one in parameters}
    return command  # type: ignore[return-value]


def _spent(seconds: float) -> str:
    """Return the time that a command took and the most memory that its process had."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"took {seconds:.1f} s, at most {peak / 1e6:,.0f} MB of memory\n"


def _spread(args: Sequence[str], several: dict[str, str]) -> Iterator[str]:
    """Yield arguments with a flag in front of each value.

    >>> list(_spread(["store", "--splits", "train", "val", "-x"], {"--splits": "SPLIT..."}))
    ['store', '--splits', 'train', '--splits', 'val', '-x']
    """
    flag = ""
    for position, word in enumerate(args):
        if word == "--":
            yield from args[position:]
            return
        is_flag = word.startswith("-") and word != "-"
        if is_flag:
            flag = word if word in several else ""
        if not flag:
            yield word
        elif not is_flag:
            yield from (flag, word)
        elif not several[flag].startswith("["):
            following = args[position + 1 : position + 2]
            if not following or (following[0].startswith("-") and following[0] != "-"):
                what = several[flag].rstrip(".")
                raise UsageError(f"Option '{flag}' requires at least one {what}.")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a file that output goes to


def exit_cleanly(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and leave the process, with one line instead of a traceback on errors.

    Exit codes: what ``main`` returns (None is 0); 2 for a UsageError; 1 for any other
    ScenestoreError and for a file or folder that the operating system refuses; 130 after Ctrl-C;
    141 when the reader of a pipe has gone. docs/reference/commandline.md lists them.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Latin-1 locales and Windows pipes lack characters
            stream.reconfigure(errors="replace")
    terminal.set_level(terminal.NORMAL)
    try:
        code = main() or 0
        sys.stdout.flush()
    except ScenestoreError as error:
        if terminal.level() == terminal.VERBOSE:
            traceback.print_exc()
        sys.stderr.write(f"error: {error}\n")
        code = 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        command = f"pip install 'scenestore[{EXTRAS[package]}]'"
        sys.stderr.write(f"error: {MissingDependency.of(package, 'this command', command)}\n")
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 141
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:
            raise
        if error.filename is None:
            error.filename = "the output"
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest of it at its end
        reason = error.strerror or error
        sys.stderr.write(f"error: {error.filename}: {reason}. Check it and run again.\n")
        code = 1
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        # Threads of a process group can hold tensors and abort an interpreter that shuts down.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
