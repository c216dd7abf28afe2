"""Worker processes: what they load."""

from functools import partial

import pipeline
from workflows.processes import Processes

CAPTION = "A man in a red shirt rides a horse."


def test_a_worker_parses_without_torch():
    program = "__import__('pipeline').parse([caption])[0]"
    parse = partial(eval, program, {"caption": CAPTION})
    loaded = partial(eval, "'torch' in __import__('sys').modules")
    afterwards = partial(eval, "__import__('torch').__name__")
    found = []
    with Processes(1) as workers:
        assert list(workers.next()) == []  # it has started
        for number, call in enumerate((parse, loaded, afterwards)):
            workers.submit(number, call)
            found += [outcome for _, outcome in workers.next()]
    assert found == [pipeline.parse([CAPTION])[0], False, "torch"]
