"""Write ``docs/reliability.md``: ``python -m tests.faults.page > docs/reliability.md``."""

import sys
from pathlib import Path

from tests.faults.test_faults import CASES

# In this order, whichever module of cases was imported first.
AREAS = ("processes", "inputs", "disks", "stores", "plug-ins", "clusters", "mutations")


def page() -> str:
    lines = [Path(__file__).with_suffix(".md").read_text(encoding="utf-8").rstrip(), ""]
    runs = sum(case.times for case in CASES)
    always = sum(case.quick for case in CASES)
    lines.append(f"{len(CASES)} faults, {runs} runs; {always} of them always.")
    for area in AREAS:
        lines += [
            "",
            f"### {area.capitalize()}",
            "",
            "| fault | outcome | tested |",
            "|---|---|---|",
        ]
        for case in CASES:
            if case.area == area:
                times = f"{case.times} times" if case.times > 1 else "once"
                tested = f"always, {times} in all" if case.quick else times
                lines.append(f"| {case.fault} | {case.outcome} | {tested} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
