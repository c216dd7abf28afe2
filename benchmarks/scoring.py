"""How much faster tiled scoring is than a Python loop over captions, model by model.

    OMP_NUM_THREADS=1 python -m benchmarks.scoring [MODEL ...] [--device cuda] [--images 100]

Both ways compute the same numbers from the same codes: ``model.score`` in tiles, and
``models.reference``, which takes one caption after another and writes the definition down
literally. They run alternately in one process; the fastest of the repeats counts. One thread on a
CPU is timed by its own clock, so that other programs on the machine count less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import models
from features.errors import UnknownName, exit_cleanly
from models.synthetic import random_captions, random_images

# Options beside the defaults, to time every published way of scoring.
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "sgm": ("sgm", {}),
    "scan t2i": ("scan", {"direction": "t2i", "pool": "log_sum_exp"}),
    "scan i2t": ("scan", {"direction": "i2t", "pool": "log_sum_exp"}),
    "gsmn": ("gsmn", {}),
    "racg": ("racg", {}),
    "cfsgr": ("cfsgr", {}),
    "cfsgr coarse": ("cfsgr", {"part": "coarse"}),
    "cfsgr fine_object": ("cfsgr", {"part": "fine_object"}),
    "cfsgr fine_predicate": ("cfsgr", {"part": "fine_predicate"}),
    "hrem": ("hrem", {}),
    "vse": ("vse", {}),
}


def synthetic_codes(model: Any, args: argparse.Namespace) -> tuple[Any, Any]:
    """Encode random images (36 objects, 25 relations) and captions (about 14 words)."""
    images = random_images(
        args.images, objects=(36, 36), relations=(25, 25), dim=args.image_dim, n_labels=150
    )
    captions = random_captions(
        args.captions, words=(7, 18), triplets=(0, 4), vocab_size=1000, n_tags=40, pieces=1000
    )
    with torch.inference_mode():
        return (
            model.encode_images(images.to(args.device)),
            model.encode_captions(captions.to(args.device)),
        )


def seconds(run: Callable[[], object], args: argparse.Namespace) -> float:
    """Return how long one call takes, a GPU's queue emptied before and after."""
    on_gpu = args.device.startswith("cuda")
    clock = time.perf_counter if on_gpu or args.threads > 1 else time.thread_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def measure(case: str, args: argparse.Namespace) -> str:
    """Return one row of the table."""
    name, options = CASES[case]
    torch.manual_seed(0)
    data = {"image_dim": args.image_dim, "vocab_size": 1000, "n_labels": 150, "n_predicates": 52}
    model = models.create(name, **data, **options).eval().to(args.device)
    images, captions = synthetic_codes(model, args)
    pairs = len(images[0]) * len(captions[0])
    tiled: list[float] = []
    plain: list[float] = []
    with torch.inference_mode():
        worst = (model.score(images, captions) - models.reference(model, images, captions)).abs()
        for _ in range(args.repeats):
            tiled.append(seconds(lambda: model.score(images, captions), args))
            plain.append(seconds(lambda: models.reference(model, images, captions), args))
    a, b = min(tiled), min(plain)
    return (
        f"| {case} | {b:.2f} s | {a:.3f} s | **{b / a:.1f}x** | "
        f"{1e3 * a / pairs:.4f} | {worst.max().item():.0e} |"
    )


def main() -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", help="model names or rows of CASES; default: all")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--image-dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    for name in args.cases:
        if not any(name in (case, case.split()[0]) for case in CASES):
            raise UnknownName.of("case", name, CASES)
    torch.set_num_threads(args.threads)
    chosen = [case for case in CASES if not args.cases or {case, case.split()[0]} & set(args.cases)]
    print(
        f"{args.images} images x {args.captions} captions, 36 objects, 25 relations, 1024-d, "
        f"{args.threads} thread(s), {args.device}, torch {torch.__version__}\n"
    )
    print("| model | loop over captions | tiled | ratio | ms per pair | max difference |")
    print("|---|---|---|---|---|---|")
    for case in chosen:
        print(measure(case, args), flush=True)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
