"""Every case of the table; all of them by ``make faults``, the quick ones in every run."""

import importlib
import inspect
import os
from pathlib import Path

import pytest

from tests.faults.table import CASES

for area in ("processes", "files", "disks", "stores", "plugins", "clusters", "hosts", "mutations"):
    importlib.import_module(f"tests.faults.{area}")

WHOLE = os.environ.get("SCENESTORE_FAULTS") == "all"
RUNS = [
    pytest.param(case, seed, id=f"{case.id} {seed}" if case.times > 1 else case.id)
    for case in CASES
    if WHOLE or case.quick
    for seed in range(case.times if WHOLE else 1)
]

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(("case", "seed"), RUNS)
def test_fault(case, seed, request):
    wanted = inspect.signature(case.test).parameters
    given = {name: request.getfixturevalue(name) for name in wanted if name != "seed"}
    case.test(**given, **({"seed": seed} if "seed" in wanted else {}))


def test_the_page_lists_every_case():
    from tests.faults.page import page

    assert len(CASES) >= 120
    assert len({case.id for case in CASES}) == len(CASES)
    path = Path(__file__).parents[2] / "docs" / "reliability.md"
    assert path.read_text(encoding="utf-8") == page(), "run: make docs"
