"""Measure how much faster tiled scoring is than a Python loop over captions, for each model.

    OMP_NUM_THREADS=1 python -m benchmarks.scoring [MODEL ...] [--images 100] [--captions 500]
    python -m benchmarks.scoring --device cuda --images 1000 --captions 5000 --loop-captions 50
    OMP_NUM_THREADS=1 python -m benchmarks.scoring [MODEL ...] --precision bf16

``model.score`` (tiled) and ``models.reference`` (a literal loop over captions) compute the same
scores from the same codes. They run alternately in one process; the fastest repeat counts. One
thread on a CPU is timed by its CPU time, so that other programs on the machine matter less. "Of
peak" is the rate of matrix products in tiled scoring divided by that of one large product in the
same run.

With ``--precision`` the table shows instead how much a lower precision changes the scores, and for
how many captions another image comes first. Weights are random, so scores are closer together than
those of a trained model, and more of them change places.

``--loop-captions`` limits the loop to fewer captions; its time is scaled to all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from features.commands import exit_cleanly
from features.errors import UnknownName
from models.compute import pick
from models.evaluation import computing
from models.training import random_captions, random_images

LONG = 60  # seconds; a slower loop is not repeated

# Name in the table -> model and options, for every published way of scoring.
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
    """Return how long one call takes, with the queue of a GPU empty before and after."""
    on_gpu = args.device.startswith("cuda")
    clock = time.perf_counter if on_gpu or args.threads > 1 else time.thread_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def create(case: str, args: argparse.Namespace) -> Any:
    """Return the model of one row with random weights."""
    name, options = CASES[case]
    torch.manual_seed(0)
    data = {"image_dim": args.image_dim, "vocab_size": 1000, "n_labels": 150, "n_predicates": 52}
    return models.create(name, **data, **options).eval().to(args.device)


def flops(run: Callable[[], object]) -> float:
    """Count the operations of the matrix products of one call."""
    # the counter fails with weight normalisation in inference mode
    with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def measure(case: str, args: argparse.Namespace) -> str:
    """Return one row of the table."""
    model = create(case, args)
    images, captions = synthetic_codes(model, args)
    pairs = len(images[0]) * len(captions[0])
    side = 8192 if args.device.startswith("cuda") else 2048
    one, other = torch.rand(2, side, side, device=args.device)
    looped = min(args.loop_captions or args.captions, args.captions)
    few = pick(captions, slice(looped))
    tiled: list[float] = []
    plain: list[float] = []
    square: list[float] = []
    loop: list[torch.Tensor] = []
    with torch.inference_mode():
        tiles = model.score(images, captions)[:, :looped]
        for turn in range(args.repeats):
            square.append(seconds(lambda: one @ other, args))
            tiled.append(seconds(lambda: model.score(images, captions), args))
            if turn == 0 or plain[0] < LONG:
                run = seconds(lambda: loop.append(models.reference(model, images, few)), args)
                plain.append(run)
        worst = (tiles - loop[0]).abs()
        work = flops(lambda: model.score(images, captions))
    a, b = min(tiled), min(plain) * args.captions / looped
    peak = 2 * side**3 / min(square)
    return (
        f"| {case} | {b:.2f} s | {a:.3f} s | **{b / a:.1f}x** | {1e3 * a / pairs:.4f} | "
        f"{1e-6 * work / pairs:.2f} | {work / a / peak:.0%} | {worst.max().item():.0e} |"
    )


def compare_precision(case: str, args: argparse.Namespace) -> str:
    """Return one row of the table for a lower precision of codes and scores."""
    model = create(case, args)

    def score() -> torch.Tensor:
        images, captions = synthetic_codes(model, args)
        scores: torch.Tensor = model.score(images, captions).float()
        return scores

    with torch.inference_mode():
        exact = score()
        with computing(args.precision, torch.device(args.device)):
            rough = score()
    error = (rough - exact).abs()
    best = rough.argmax(0)
    return (
        f"| {case} | {exact.std():.0e} | {error.mean().item():.0e} | {error.max().item():.0e} | "
        f"{(best != exact.argmax(0)).float().mean():.1%} | "
        f"{1 - recall_of(exact, best, 10):.1%} |"
    )


def recall_of(exact: torch.Tensor, best: torch.Tensor, k: int) -> float:
    """Return the share of captions whose ``best`` image is among the k first by ``exact``."""
    first = exact.topk(min(k, len(exact)), 0).indices
    return (first == best).any(0).float().mean().item()


def main() -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", help="model names or rows of CASES; default: all")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--loop-captions", type=int, help="of these the loop takes; default: all")
    parser.add_argument("--image-dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["bf16", "tf32"], help="its error instead of speed")
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
    if args.precision:
        print("| model | spread of scores | mean error | max error | another first | not in 10 |")
        print("|---|---|---|---|---|---|")
    else:
        print(
            "| model | loop over captions | tiled | ratio | ms per pair | MFLOP per pair | "
            "of peak | max difference |"
        )
        print("|---|---|---|---|---|---|---|---|")
    row = compare_precision if args.precision else measure
    for case in chosen:
        print(row(case, args), flush=True)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
