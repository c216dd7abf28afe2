"""Check and measure the models on a CUDA device, in eight minutes.

    python -m benchmarks gpu                    all of it; refuses without a CUDA device
    python -m benchmarks gpu --dry-run          all of it on the CPU with tiny sizes, as a test

It needs a checkout and the packages torch, numpy, h5py, pydantic, pyyaml, typer and safetensors; no
parser, detector or scheduler. Written are ``gpu.json`` and ``gpu.md``:

1. correctness: scores on the device against float32 on the CPU, in float32, TF32 and bf16;
2. scoring: 1,000 images x 5,000 captions, and the share of the device's rate of matrix products;
3. training: a step at published sizes from a store with the shape of Flickr30k: time, peak memory,
   wait for the loader;
4. mixed precision: a few steps of each model in bf16, the default of run.amp on CUDA;
5. resume: a run that was stopped and resumed has the weights of an uninterrupted one;
6. two processes on the device, started by torchrun.

A part that would end after ``--minutes`` is left out, and the tables say so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.training import synthetic_store
from features import open_store
from features.commands import Progress, exit_cleanly
from features.errors import UsageError
from models.compute import World
from models.configuration import from_dict, to_yaml
from models.evaluation import computing
from models.train import train
from models.training import (
    Data,
    Trainer,
    make_model,
    random_captions,
    random_images,
    store_keys,
)

MODELS = ("sgm", "gsmn", "racg", "hrem", "cfsgr", "scan", "vse")
PAIRWISE = ("sgm", "gsmn", "racg", "cfsgr", "scan")
PRECISIONS = ("float32", "tf32", "bf16")
SIZES = {  # images and captions to score, batch, steps, image width, width of the common space
    False: {"images": 1000, "captions": 5000, "batch": 128, "steps": 8, "dim": 2048, "embed": 1024},
    True: {"images": 6, "captions": 8, "batch": 4, "steps": 1, "dim": 16, "embed": 16},
}
SMALL: dict[str, dict[str, Any]] = {  # options of a dry run
    "racg": {"heads": 4, "position_dim": 8},
    "hrem": {"heads": 4},
}
Row = dict[str, Any]


class Bench:
    """One run of all parts on one device."""

    def __init__(self, device: torch.device, *, dry: bool, end: float, folder: Path) -> None:
        self.device, self.dry, self.end, self.folder = device, dry, end, folder
        self.sizes = SIZES[dry]
        self.cuda = device.type == "cuda"

    def options(self, name: str) -> dict[str, Any]:
        """Return options of a model; tiny in a dry run."""
        small: dict[str, Any] = {}
        if self.dry:
            small = {"embed_dim": self.sizes["embed"], "word_dim": 8, **SMALL.get(name, {})}
        return {**small, **({"warm_up": 0} if name == "hrem" else {})}

    def model(self, name: str) -> Any:
        """Return a model with random weights, on the CPU."""
        torch.manual_seed(0)
        data = {"image_dim": self.sizes["dim"], "vocab_size": 1000, "n_labels": 150}
        return models.create(name, **data, n_predicates=52, **self.options(name)).eval()

    def inputs(self, images: int, captions: int) -> tuple[Any, Any]:
        """Return random images (36 objects, 25 relations) and captions (about 14 words)."""
        return (
            random_images(
                images, objects=(36, 36), relations=(25, 25), dim=self.sizes["dim"], n_labels=150
            ),
            random_captions(
                captions, words=(7, 18), triplets=(0, 4), vocab_size=1000, n_tags=40, pieces=1000
            ),
        )

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the duration of one call: of its kernels on CUDA, else of the process."""
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        run()
        last.record()
        torch.cuda.synchronize()
        return float(first.elapsed_time(last)) / 1000

    def correctness(self, name: str) -> Row:
        """Compare the scores of a few pairs with those of the CPU."""
        few = self.inputs(4, 5) if self.dry else self.inputs(8, 16)
        model, row = self.model(name), {}
        with torch.inference_mode():
            exact = model.score(*self.codes(model, few)).float()
            model = model.to(self.device)
            batches = few[0].to(self.device), few[1].to(self.device)
            for precision in PRECISIONS:
                with computing(precision, self.device):
                    found = model.score(*self.codes(model, batches)).float().cpu()
                row[f"{precision} max error"] = float((found - exact).abs().max())
        return {**row, "spread of scores": float(exact.std())}

    def codes(self, model: Any, batches: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return the codes of images and captions."""
        return model.encode_images(batches[0]), model.encode_captions(batches[1])

    def scoring(self, name: str) -> Row:
        """Score many pairs and compare the rate with that of one large matrix product."""
        images, captions = self.inputs(self.sizes["images"], self.sizes["captions"])
        images, captions = images.to(self.device), captions.to(self.device)
        model = self.model(name).to(self.device)
        side = 8192 if self.cuda else 256
        one, other = torch.rand(2, side, side, device=self.device)
        with torch.inference_mode():
            codes = self.codes(model, (images, captions))
            model.score(*codes)  # not measured: allocates memory
            took = min(self.seconds(lambda: model.score(*codes)) for _ in range(2))
            square = min(self.seconds(lambda: one @ other) for _ in range(3))
        # the counter fails with weight normalisation in inference mode
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.score(*codes)
        pairs = len(codes[0][0]) * len(codes[1][0])
        return {
            "pairs": pairs,
            "seconds": took,
            "million pairs/s": pairs / took / 1e6,
            "of the matmul rate": counter.get_total_flops() / took / (2 * side**3 / square),
        }

    def training(self, name: str) -> Row:
        """Time complete steps: batch from the store, loss, backward pass, clipping, Adam."""
        config = self.config(name, f"step-{name}")
        opened = open_store(self.store)
        data = Data(config, opened, opened.codebook, store_keys(opened))
        model = make_model(config, data).to(self.device)
        trainer = Trainer(config, data, model, World(), self.device)
        trainer.progress = Progress(name, "steps", 1, quiet=True)
        stream = iter(data.train_batches(0, 0, World()))
        trainer._step(stream, 1)  # not measured: allocates memory
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        steps, waits = [], []
        for _ in range(self.sizes["steps"]):
            trainer.speed.reset()
            steps.append(self.seconds(lambda: trainer._step(stream, 1)))
            waits.append(trainer.speed.waited)
        step = float(np.median(steps))
        return {
            "pairs": self.sizes["batch"],
            "ms per step": 1000 * step,
            "loader wait": sum(waits) / sum(steps),
            "peak memory, GB": torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None,
            "hours per 145,000 pairs": 145_000 / self.sizes["batch"] * step / 3600,
        }

    @cached_property
    def store(self) -> Path:
        """A store with the shape of Flickr30k."""
        return synthetic_store(self.folder / "store", 8 if self.dry else 512)

    def config(self, name: str, folder: str, **run: Any) -> Any:
        """Return the configuration of a run on the synthetic store."""
        return from_dict(
            {
                "model": {"name": name, "options": self.options(name)},
                "data": {
                    "store": str(self.store),
                    "val": "train[:8]",
                    "batch_size": self.sizes["batch"],
                },
                "run": {
                    "folder": str(self.folder / folder),
                    "epochs": 1,
                    "device": str(self.device),
                    "deterministic": True,
                    "amp": "none",
                    **run,
                },
            }
        )

    def mixed(self, name: str) -> Row:
        """Train a few steps in bf16."""
        with contextlib.redirect_stdout(sys.stderr):
            code = train(self.config(name, f"mixed-{name}", max_steps=2, amp="bf16"))
        return {"works": code == 0}

    def resume(self, name: str) -> Row:
        """Stop a run after two steps, resume it, and compare it with a whole run."""
        with contextlib.redirect_stdout(sys.stderr):
            train(self.config(name, f"whole-{name}", max_steps=4))
            train(self.config(name, f"parts-{name}", max_steps=2))
            train(self.config(name, f"parts-{name}", max_steps=4))
        whole, parts = (
            torch.load(self.folder / f"{kind}-{name}" / "last.pt", weights_only=False)["model"]
            for kind in ("whole", "parts")
        )
        worst = max(float((whole[key] - parts[key]).abs().max()) for key in whole)
        return {"largest difference of weights": worst, "exact": worst == 0}

    def ranks(self, name: str) -> Row:
        """Train with two processes on the device."""
        file = self.folder / "ranks.yaml"
        file.write_text(to_yaml(self.config(name, "ranks", max_steps=2)))
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "-m", "models.train", str(file)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        took = time.perf_counter() - start
        told = [line for line in lines if "error" in line.lower()] or lines or [""]
        return {"works": done.returncode == 0, "seconds": took, "last line": told[-1][:120]}

    def run(self) -> dict[str, list[Row]]:
        """Run all parts; rows are left out once the time is over."""
        several = ("sgm",) if self.dry else ("sgm", "gsmn")
        parts: dict[str, tuple[Callable[[str], Row], tuple[str, ...]]] = {
            "correctness": (self.correctness, MODELS),
            "scoring": (self.scoring, PAIRWISE),
            "training": (self.training, MODELS),
            "mixed precision": (self.mixed, several if self.dry else MODELS),
            "resume": (self.resume, several),
            "ranks": (self.ranks, ("sgm",)),
        }
        tables: dict[str, list[Row]] = {name: [] for name in parts}
        for part, (measure, names) in parts.items():
            for name in names:
                if time.monotonic() > self.end:
                    tables[part].append({"model": name, "left out": "the time was over"})
                    continue
                try:
                    row = measure(name)
                except (RuntimeError, ValueError, OSError) as error:  # the others still say much
                    row = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
                tables[part].append({"model": name, **row})
                sys.stderr.write(f"{part} {name}: {row}\n")
        return tables


def as_markdown(about: dict[str, Any], parts: dict[str, list[Row]]) -> str:
    """Return all tables as Markdown."""
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    for part, rows in parts.items():
        heads = list(dict.fromkeys(name for row in rows for name in row))
        lines += [f"### {part}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for row in rows:
            lines.append("| " + " | ".join(_cell(row.get(name)) for name in heads) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Run everything and write both files; return 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8)
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device. Run it on a machine with one, or --dry-run.")
    device = torch.device("cpu" if args.dry_run else "cuda")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    name = "cpu (dry run)" if args.dry_run else torch.cuda.get_device_name(device)
    about = {"device": name, "torch": torch.__version__, "python": sys.version.split()[0]}
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as temporary:
        parts = Bench(device, dry=args.dry_run, end=end, folder=Path(temporary)).run()
    args.out.mkdir(parents=True, exist_ok=True)
    document = {**about, "parts": parts}
    (args.out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    table = as_markdown(about, parts)
    (args.out / "gpu.md").write_text(table)
    print(table)
    rows = [row for part in parts.values() for row in part]
    return int(any("failed" in row or row.get("exact") is False for row in rows))


if __name__ == "__main__":
    exit_cleanly(main)
