"""``python -m scenestore``: the program ``scenestore``."""

from __future__ import annotations

import signal
from typing import NoReturn

__all__ = ["run"]


def run() -> NoReturn:
    """Run a command; Ctrl-C while it is loaded ends the process without a stack trace."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from scenestore.program import main  # loads typer and numpy

    signal.signal(signal.SIGINT, handler)
    main()


if __name__ == "__main__":
    run()
