"""The table of faults: what goes wrong, and what is promised to happen then.

Each case is a function that makes one fault and asserts the outcome. ``make docs`` writes the table
into ``docs/reliability.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SAME = "the undisturbed hash, in this run or the next"
ERROR = "an error that names the file, image or worker; the next healthy run ends with the hash"
SKIPPED = "an error that names the image; with `--on-error skip`, a store without it, another key"
FOUND = "`verify` names the file; `--repair` and the next build end with the hash"
REFUSED = "an error that names the file, or the right contents"
PLUGIN = (
    "an error that names plug-in, image and value; with `--on-error skip` the image is excluded"
)
CLOSED = "no port, and no socket with a name: nothing that another user could connect to"


@dataclass(frozen=True)
class Case:
    """One fault: where, what, the promised outcome, and the function that tests it.

    ``quick`` cases run in every test run, the others by ``make faults``. ``times`` is how often a
    case with random moments is repeated.
    """

    area: str
    fault: str
    outcome: str
    test: Callable[..., Any]
    quick: bool = False
    times: int = 1

    @property
    def id(self) -> str:
        return f"{self.area}: {self.fault}".replace("/", "-")


CASES: list[Case] = []


def case(area: str, fault: str, outcome: str, **more: Any) -> Callable[[Any], Any]:
    """Register the decorated function as a case; it takes the laboratory of a test."""

    def add(test: Any) -> Any:
        CASES.append(Case(area, fault, outcome, test, **more))
        return test

    return add
