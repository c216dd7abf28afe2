"""Luigi settings for batch jobs, and one-line error messages on its command line.

By default Luigi exits with code 0 when a task failed, counts a ``run()`` that wrote no output as a
success, and prints a stack trace for every error. The settings below change that unless the user's
``luigi.cfg`` sets the same option.
"""

from __future__ import annotations

import logging
import sys

import luigi
import luigi.configuration

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

    These are a ``ScenestoreError`` and a parameter that cannot be parsed. Any other error is a bug
    and keeps its trace.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the record and write one line if its exception is a user's error."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ScenestoreError | luigi.parameter.ParameterException):
            sys.stderr.write(f"error: {error}\n")
            return False
        if isinstance(error, ValueError) and "Uncaught exception" in str(record.msg):
            sys.stderr.write(f"error: a parameter cannot be read: {error}. Try --help.\n")
            return False
        return True


def apply_defaults() -> None:
    """Set every option that the user's configuration does not, and install the log filter once.

    Characters that the terminal cannot show are replaced, as in the other programs.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    settings = luigi.configuration.get_config()
    for (section, option), value in DEFAULTS.items():
        if not settings.has_option(section, option):
            settings.set(section, option, value)
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(item, OneLineErrors) for item in logger.filters):
        logger.addFilter(OneLineErrors())
