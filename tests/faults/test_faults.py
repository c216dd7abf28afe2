"""Every case of the table; all of them by ``make faults``, the quick ones in every run."""

import importlib
import inspect
import os

import pytest

from tests.faults.table import CASES

for area in ("processes", "files", "disks", "stores", "plugins", "clusters"):
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
