"""Run benchmarks and print their Markdown tables.

    python -m benchmarks                  all that need no files of the user's
    python -m benchmarks NAME [NAME ...]  some
    python -m benchmarks NAME OPTION ...  one, with options of its own

Each runs in a process of its own, one after the other, because all of them count on having a core
to themselves. They print ratios within one run, so that a slow machine changes little.
"""

import subprocess
import sys
from pathlib import Path

# the first takes annotated captions and writes a table of the package, the second wants a GPU
ON_REQUEST = {"fit_attachment", "gpu"}


def main() -> int:
    found = sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path.stem != "__main__"
    )
    chosen, options = sys.argv[1:] or [name for name in found if name not in ON_REQUEST], []
    if chosen[0] in found and not set(chosen) <= set(found):
        chosen, options = chosen[:1], chosen[1:]
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        sys.stderr.write(f"error: no benchmark {', '.join(unknown)}. Known: {', '.join(found)}.\n")
        return 2
    failed = []
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.stderr.write(f"error: failed: {', '.join(failed)}.\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
