"""The commands that README and docs give for the benchmarks run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import main

ROOT = Path(__file__).parents[1]


def benchmarks(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True, cwd=ROOT
    )


def test_one_benchmark_takes_its_own_options():
    size = ("--images", "4", "--captions", "6", "--image-dim", "8", "--repeats", "1")
    done = benchmarks("scoring", "sgm", *size, "--loop-captions", "2")
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split("|")
    assert row[1].strip() == "sgm"
    assert float(row[-2]) < 1e-5  # between tiles and loop
    done = benchmarks("scoring", "sgm", *size, "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    assert "| sgm |" in done.stdout


def test_those_that_need_files_of_the_user_run_only_when_named(monkeypatch):
    ran = []

    def run(command, check):
        ran.append(command[-1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert main() == 0
    names = ["parse", "scoring", "store", "training", "vision"]
    assert ran == [f"benchmarks.{name}" for name in names]


def test_an_unknown_benchmark_is_named_with_the_known_ones():
    done = benchmarks("scorin")
    assert done.returncode == 2
    assert "no benchmark scorin. Known:" in done.stderr
    done = benchmarks("store", "--rows", "3")
    assert done.returncode == 1
    assert "unrecognized arguments: --rows 3" in done.stderr
