"""The commands that README and docs give for the benchmarks run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_a_step_is_compared_with_its_matrix_products():
    done = benchmarks("step", "vse", "sgm", "--sizes", "tiny", "--batch", "4", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()[-2:]]
    assert [row[1] for row in rows] == ["vse", "sgm"]
    assert all(float(row[7]) > 1 for row in rows)  # a step takes longer than its products
    assert "no case 'sgn'. Known: sgm," in benchmarks("step", "sgn").stderr


def test_those_that_need_files_of_the_user_run_only_when_named(monkeypatch):
    ran = []

    def run(command, check):
        ran.append(command[-1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert main() == 0
    names = ["parse", "scale", "scoring", "serve", "step", "store", "training", "vision"]
    assert ran == [f"benchmarks.{name}" for name in names]


def test_the_benchmark_of_the_browser_asks_every_kind_of_page():
    done = benchmarks("serve", "--images", "70")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" s |") == 2 * 12
    assert "Memory at its peak" in done.stdout


def test_the_benchmark_of_a_gpu_runs_tiny_without_one(tmp_path):
    """No parser, scheduler or detector runtime is needed."""
    hidden = ("spacy", "stanza", "luigi", "dask", "distributed", "onnxruntime")
    program = (
        f"import sys\nfor name in {hidden}:\n    sys.modules[name] = None\n"
        "import runpy\nrunpy.run_module('benchmarks.gpu', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--dry-run", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    parts = document["parts"]
    assert [*parts] == [
        "correctness",
        "scoring",
        "training",
        "mixed precision",
        "resume",
        "ranks",
    ]
    assert parts["mixed precision"] == [{"model": "sgm", "works": True}]
    assert len(parts["correctness"]) == len(parts["training"]) == 7
    for row in parts["correctness"]:
        assert row["float32 max error"] == 0, row  # the same device twice
        assert row["bf16 max error"] > 0, row
    assert parts["resume"] == [
        {"model": "sgm", "largest difference of weights": 0.0, "exact": True}
    ]
    assert parts["ranks"][0]["works"] is True
    assert (tmp_path / "gpu.md").read_text().count("| sgm |") == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_benchmark_of_a_gpu_refuses_to_run_without_one():
    done = benchmarks("gpu")
    assert done.returncode == 1
    assert "error: torch finds no CUDA device" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_benchmark_is_named_with_the_known_ones():
    done = benchmarks("scorin")
    assert done.returncode == 2
    assert "no benchmark scorin. Known:" in done.stderr
    done = benchmarks("store", "--rows", "3")
    assert done.returncode == 1
    assert "unrecognized arguments: --rows 3" in done.stderr
