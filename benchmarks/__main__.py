"""Run every benchmark and print its Markdown tables: ``python -m benchmarks [NAME ...]``.

Each runs in a process of its own, one after the other, because all of them count on having a core
to themselves. They print ratios within one run, so that a slow machine changes little.
"""

import subprocess
import sys
from pathlib import Path


def main() -> int:
    found = sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path.stem != "__main__"
    )
    chosen = sys.argv[1:] or found
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        sys.stderr.write(f"error: no benchmark {', '.join(unknown)}. Known: {', '.join(found)}.\n")
        return 2
    failed = []
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        sys.stderr.write(f"error: failed: {', '.join(failed)}.\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
