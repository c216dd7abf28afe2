"""A small data set, and real builds of it in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from features import open_store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMES = [f"{number:03d}.png" for number in range(70)]  # two shards
LIMIT = 180.0  # seconds that a build may take, whatever happens


class Lab:
    """A data set below ``folder`` and the commands that build it.

    Attributes:
        hash: content hash of an undisturbed build.   built: its store.
    """

    hash = ""
    built = Path()

    def __init__(self, folder: Path, names=NAMES) -> None:
        self.folder, self.names = folder, names
        self.photos, self.captions = folder / "photos", folder / "captions.json"
        self.store = folder / "st"
        self.env: dict[str, str] = {}
        self.jobs = 1

    def write(self) -> None:
        self.photos.mkdir(parents=True, exist_ok=True)
        images = []
        for number, name in enumerate(self.names):
            noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(self.photos / name, compress_level=1)
            sentences = [{"raw": f"a dog sees ball number {number} .", "sentid": number}]
            split = ("train", "val", "test")[number % 3]
            images.append({"filename": name, "split": split, "sentences": sentences})
        self.captions.write_text(json.dumps({"dataset": "tiny", "images": images}))

    def command(self, *more: str) -> list[str]:
        options = {
            "--images-dir": self.photos,
            "--captions": self.captions,
            "--store-dir": self.store,
            "--plugins": f"{HERE / 'faulty.py'},{ROOT / 'examples' / 'own_parser.py'}",
            "--detector": "faulty",
            "--features": "none",
            "--parser": "plain",
            "--jobs": self.jobs,
        }
        words = [str(word) for pair in options.items() for word in pair]
        luigi = [sys.executable, "-m", "luigi", "--module", "workflows", "BuildDataset"]
        return [*luigi, "--local-scheduler", "--no-lock", *words, *more]

    def environment(self, **env: str) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, **self.env, **env}

    def start(self, *more: str, **env: str) -> subprocess.Popen[str]:
        """Start a build in a session of its own."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start background jobs
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            self.command(*more),
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=self.folder,
        )

    def end(self, build: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a build; return its exit code and what it said. No traces, no orphans."""
        try:
            out, err = build.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(build.pid, signal.SIGKILL)
            raise AssertionError(f"the build took more than {LIMIT} s") from None
        assert "Traceback" not in err, err
        assert not orphans(build.pid), f"processes are left: {orphans(build.pid)}"
        return build.returncode, out + err

    def run(self, *more: str, **env: str) -> tuple[int, str]:
        return self.end(self.start(*more, **env))

    def fails(self, words: str, *more: str, **env: str) -> str:
        """Run a build that must fail with an error that has these words."""
        code, said = self.run(*more, **env)
        assert code not in (0, 40), said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert any(words in line for line in errors), said
        return errors[0]

    def heals(self, *more: str, kept: Collection[str] = (), **env: str) -> None:
        """Run a build that must end with the undisturbed hash and leave nothing behind.

        Args:
            more: options.   env: environment.
            kept: files of an earlier build under another key, which stay.
        """
        code, said = self.run(*more, **env)
        assert code == 0, said
        assert open_store(self.store).hash == self.hash, said
        left = files(self.store) - files(self.built) - set(kept)
        assert not left, left

    def group(self, name: str) -> Path:
        """The folder of the newest group of a kind."""
        folders = self.store.glob(f"{name}-*/")
        return max(folders, key=lambda path: path.stat().st_mtime_ns)


def files(folder: Path) -> set[str]:
    """Return the names of all files below a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def members(session: int) -> dict[int, str]:
    """Return the processes of a session: id -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = line
    return found


def orphans(session: int) -> dict[int, str]:
    """Return the processes that are left of a session, after a moment to end."""
    for _ in range(50):
        left = members(session)
        if not left:
            break
        time.sleep(0.1)
    return left


def loads_numpy(pid: int) -> bool:
    """Return whether a process has loaded or is loading numpy, which our code does at once."""
    with contextlib.suppress(OSError):
        return "numpy" in Path(f"/proc/{pid}/maps").read_text()
    return False


def kill_some(build, kind: str, number: int, seed: int, longest: float) -> None:
    """Kill a process of a build at a random moment: ``luigi``, or a ``worker``.

    An interrupt comes after Luigi has started to load our code: the trace that Python prints
    before is not ours.
    """
    while number == signal.SIGINT and build.poll() is None and not loads_numpy(build.pid):
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, longest))
    with contextlib.suppress(ProcessLookupError):
        if kind == "group":
            os.killpg(build.pid, number)
        elif kind == "luigi":
            os.kill(build.pid, number)
        else:
            for pid, line in members(build.pid).items():
                if "spawn_main" in line:
                    os.kill(pid, number)
                    break
