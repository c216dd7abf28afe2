"""Compare a training step with the time of its own matrix products.

    OMP_NUM_THREADS=1 python -m benchmarks.step [CASE ...] [--batch 32] [--repeats 5]

Sizes are those of the papers: 36 regions and 25 relations of 2048 numbers per image, captions of
about 12 words with two triplets, a vocabulary of 10,000 words, 1024-d embeddings. A step is the
loss, the backward pass, clipping and Adam, as the trainer takes it; the batch is in memory. The
floor is the time of all matrix products of the same step, repeated alone with operands of the same
shapes and strides. Times are processor time of one thread, medians of alternating repeats, so that
other programs on the machine change them little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import models
from features.allocator import keep_freed_memory
from features.commands import exit_cleanly
from models.configuration import OptimConfig
from models.training import random_captions, random_images
from models.training.optim import clip_gradients, make_optimizer

CASES: dict[str, dict[str, Any]] = {
    "sgm": {},
    "sgm 256": {"embed_dim": 256},
    "gsmn": {},
    "gsmn dense": {"text_graph": "dense"},
    "cfsgr": {},
    "racg": {},
    "hrem": {"warm_up": 0},
    "scan": {},
    "scan i2t": {"direction": "i2t"},
    "vse": {},
}
SIZES = {
    "published": {"dim": 2048, "embed": 1024, "words": 10_000},
    "tiny": {"dim": 64, "embed": 64, "words": 100},
}
PRODUCTS = (
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "convolution", "convolution_backward"),
    "_linear_pointwise",  # of oneDNN, see models/nn/products.py
)
Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Recorder(TorchDispatchMode):
    """Keep the matrix products that are computed while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``; keep its arguments, tensors as their shape, if it is a product."""
        name = func.overloadpacket.__name__.rstrip("_")
        given = kwargs or {}
        if name in PRODUCTS:
            leaves, spec = tree_flatten((args, given))
            self.calls.append((func, [_shape_of(leaf) for leaf in leaves], spec))
        elif name.startswith("_scaled_dot_product"):
            self._attention(args, backward="backward" in name)
        return func(*args, **given)

    def _attention(self, args: Any, *, backward: bool) -> None:
        """Keep the products of fused attention: two forward, five backward."""
        q, k = [x.flatten(0, 1) for x in args[backward : backward + 2]]
        weights = torch.empty(len(q), q.shape[1], k.shape[1])
        sides = [(q, k.transpose(1, 2)), (weights, k)]
        if backward:
            sides += [(q, k.transpose(1, 2)), (weights.transpose(1, 2), q), (weights, k)]
        for pair in sides:
            leaves, spec = tree_flatten((pair, {}))
            shapes = [_shape_of(leaf) for leaf in leaves]
            self.calls.append((torch.ops.aten.bmm.default, shapes, spec))


def _shape_of(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_mkldnn:  # packed weights
        return leaf.shape, None, leaf.dtype
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype
    return leaf


def _filled(leaf: Any) -> Any:
    if isinstance(leaf, tuple) and len(leaf) == 3 and isinstance(leaf[2], torch.dtype):
        shape, stride, dtype = leaf
        if stride is None:
            return torch.ops.mkldnn._reorder_linear_weight(torch.full(shape, 0.5, dtype=dtype), 32)
        return torch.empty_strided(shape, stride, dtype=dtype).fill_(0.5)
    return leaf


class Step:
    """The training step of one model on a batch in memory."""

    def __init__(self, case: str, batch: int, sizes: dict[str, int]) -> None:
        torch.manual_seed(0)
        self.model: Any = models.create(
            case.split()[0],
            **{
                "image_dim": sizes["dim"],
                "vocab_size": sizes["words"],
                "n_labels": 150,
                "n_predicates": 52,
                "embed_dim": sizes["embed"],
                **CASES[case],
            },
        ).train()
        self.optimizer = make_optimizer(self.model, OptimConfig())
        self.images = random_images(
            batch,
            objects=(36, 36),
            relations=(25, 25),
            dim=sizes["dim"],
            n_labels=150,
            n_predicates=52,
        )
        self.captions = random_captions(
            batch, words=(8, 16), triplets=(1, 3), vocab_size=sizes["words"], n_tags=40
        )
        self.value = torch.zeros(())

    def forward(self) -> None:
        """Compute the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        self.value = self.model.loss(self.images, self.captions)

    def backward(self) -> None:
        """Compute the gradients."""
        self.value.backward()  # type: ignore[no-untyped-call]

    def optimise(self) -> None:
        """Clip the gradients and change the weights."""
        clip_gradients(self.model, OptimConfig().clip)
        self.optimizer.step()

    @property
    def parts(self) -> list[Callable[[], None]]:
        """The parts of a step, one after the other."""
        return [self.forward, self.backward, self.optimise]

    def products(self) -> list[tuple[Any, Any, Any, int]]:
        """Return the different matrix products of a step: call, operands, and how often."""
        with Recorder() as recorder:
            for part in self.parts:
                part()
        counts: dict[str, int] = {}
        first = {}
        for call in recorder.calls:
            key = repr((str(call[0]), call[1]))
            counts[key] = counts.get(key, 0) + 1
            first.setdefault(key, call)
        return [(*first[key], count) for key, count in counts.items()]


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def product_seconds(call: Any, leaves: list[Any], spec: Any, count: int) -> float:
    """Return the processor time of ``count`` equal products, from at most 4 of them."""
    args, kwargs = spec.unflatten([_filled(leaf) for leaf in leaves])
    some = min(count, 4)
    call(*args, **kwargs)  # not measured: touches the memory

    def run() -> None:
        for _ in range(some):
            call(*args, **kwargs)

    return seconds(run) / some * count


def measure(case: str, batch: int, repeats: int, sizes: dict[str, int]) -> list[str]:
    """Return one row of the table."""
    step = Step(case, batch, sizes)
    products = step.products()
    times: list[list[float]] = []
    with torch.no_grad():
        floors = [sum(product_seconds(*product) for product in products)]
    for _ in range(repeats):
        times.append([seconds(part) for part in step.parts])
        with torch.no_grad():
            floors.append(sum(product_seconds(*product) for product in products))
    forward, backward, optimise = (statistics.median(part) for part in zip(*times, strict=True))
    whole = statistics.median(sum(parts) for parts in times)
    floor = statistics.median(floors)
    values = [f"{1000 * value:.0f}" for value in (whole, forward, backward, optimise, floor)]
    return [case, *values, f"{whole / floor:.2f}", f"{batch / whole:.0f}"]


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", choices=list(SIZES), default="published")
    args = parser.parse_args()
    for case in args.cases:
        if case not in CASES:
            parser.error(f"no case {case!r}. Known: {', '.join(CASES)}.")
    keep_freed_memory()
    torch.set_num_threads(1)
    head = ["model", "ms per step", "forward", "backward", "optimiser", "products", "ratio"]
    head.append("pairs/s")
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for case in args.cases:
        row = measure(case, args.batch, args.repeats, SIZES[args.sizes])
        print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
