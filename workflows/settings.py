"""Settings that make Luigi safe for batch jobs, and the one-line errors on its command line.

Luigi leaves with exit code 0 when a task failed, unless ``[retcode]`` says otherwise, counts a
``run()`` that wrote nothing as a success, and prints a stack trace for every error. The defaults
below apply unless the user's own ``luigi.cfg`` sets the option.
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
    """Write an expected error as one line instead of Luigi's stack trace.

    A ``ScenestoreError`` and a parameter that Luigi cannot parse are the user's to mend: one line.
    Anything else is a defect of ours and keeps its trace.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Print the line and drop the record when its exception is an expected one."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ScenestoreError | luigi.parameter.ParameterException):
            sys.stderr.write(f"error: {error}\n")
            return False
        if isinstance(error, ValueError) and "Uncaught exception" in str(record.msg):
            sys.stderr.write(f"error: a parameter cannot be read: {error}. Try --help.\n")
            return False
        return True


def apply_defaults() -> None:
    """Set every default that the user's configuration leaves open, and the log filter, once."""
    settings = luigi.configuration.get_config()
    for (section, option), value in DEFAULTS.items():
        if not settings.has_option(section, option):
            settings.set(section, option, value)
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(item, OneLineErrors) for item in logger.filters):
        logger.addFilter(OneLineErrors())
