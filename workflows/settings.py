"""Luigi settings for batch jobs, and one-line error messages on its command line.

By default Luigi exits with code 0 when a task failed, counts a ``run()`` that wrote no output as a
success, and prints a stack trace for every error. The settings below change that unless the user's
``luigi.cfg`` sets the same option.
"""

from __future__ import annotations

import argparse
import logging
import sys
from types import TracebackType
from typing import Any

import luigi
import luigi.configuration
from luigi.cmdline_parser import CmdlineParser

from features.errors import ScenestoreError

__all__ = ["DEFAULTS", "OneLineErrors", "apply_defaults"]

DEFAULTS = {
    ("retcode", "already_running"): "10",
    ("retcode", "missing_data"): "20",
    ("retcode", "not_run"): "25",
    ("retcode", "task_failed"): "30",
    ("retcode", "scheduling_error"): "35",
    ("retcode", "unhandled_exception"): "40",
    ("worker", "check_complete_on_run"): "true",
    ("core", "log_level"): "WARNING",
}


class OneLineErrors(logging.Filter):
    """Write a user's error as one line instead of a stack trace.

    These are a ``ScenestoreError``, a file that the operating system refuses, and a parameter that
    cannot be parsed. Any other error is a bug and keeps its trace. Several tasks of a run may fail
    for one reason, which is written once; that Luigi then cannot run the tasks that need them is no
    further error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: set[tuple[str, str]] = set()  # run of Luigi, message

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the record and write one line if its exception is a user's error."""
        error = record.exc_info[1] if record.exc_info else None
        run = next((str(word) for word in record.args or () if "Worker(" in str(word)), "")
        if isinstance(error, KeyboardInterrupt):
            return False
        if isinstance(error, ScenestoreError | luigi.parameter.ParameterException):
            self._write(run, str(error))
            return False
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            sys.stderr.write(f"error: {error.filename}: {error.strerror}. Check it, run again.\n")
            return False
        if isinstance(error, ValueError) and "Uncaught exception" in str(record.msg):
            self._write(run, f"a parameter cannot be read: {error}. Try --help.")
            return False
        unmet = isinstance(error, RuntimeError) and str(error).startswith("Unfulfilled dependenc")
        return not (unmet and (not run or any(at == run for at, _ in self._written)))

    def _write(self, run: str, message: str) -> None:
        if not run or (run, message) not in self._written:
            sys.stderr.write(f"error: {message}\n")
        self._written.add((run, message))


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write one line for Ctrl-C, and what Python writes for anything else."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted: finished shards are kept; the same command continues.\n")
    else:
        sys.__excepthook__(kind, error, trace)


def list_options_once(parser_class: Any = CmdlineParser) -> None:
    """List each option of a task once in ``luigi ... --help``.

    Luigi accepts ``--jobs`` and ``--BuildDataset-jobs`` for the task that is started, and its help
    describes both. The long form still works.

    Luigi makes the parser nine times in a run, with some hundred options each; here it is made
    again only if there are other tasks by then.
    """
    build = getattr(parser_class, "_build_parser", None)
    tasks = getattr(luigi.task_register.Register, "_reg", None)  # one more with each task class
    if build is None or tasks is None or getattr(build, "lists_once", False):
        return  # another version of Luigi
    made: dict[tuple[str | None, bool, int], Any] = {}

    def build_parser(root_task: str | None = None, help_all: bool = False) -> Any:
        key = (root_task, help_all, len(luigi.task_register.Register._reg))
        if key not in made:
            made[key] = new_parser(root_task, help_all)
        return made[key]

    def new_parser(root_task: str | None, help_all: bool) -> Any:
        if root_task:
            try:
                luigi.task_register.Register.get_task_cls(root_task)
            except luigi.task_register.TaskClassException as error:
                message = " ".join(str(error).split())
                sys.stderr.write(f"error: {message}. Run 'luigi --help' for help.\n")
                raise SystemExit(40) from error
        parser = build(root_task, help_all)
        for action in parser._actions:
            if root_task and any(
                one.startswith(f"--{root_task}-") for one in action.option_strings
            ):
                action.help = argparse.SUPPRESS
        return parser

    build_parser.lists_once = True  # type: ignore[attr-defined]
    parser_class._build_parser = staticmethod(build_parser)


def apply_defaults() -> None:
    """Set every option that the user's configuration does not, and install the log filter once.

    Characters that the terminal cannot show are replaced, as in the other programs.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    list_options_once()
    settings = luigi.configuration.get_config()
    for (section, option), value in DEFAULTS.items():
        if not settings.has_option(section, option):
            settings.set(section, option, value)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _hook
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(item, OneLineErrors) for item in logger.filters):
        logger.addFilter(OneLineErrors())
