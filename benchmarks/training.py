"""Measure the share of a training step that waits for the store.

    OMP_NUM_THREADS=1 python -m benchmarks.training [MODEL ...] [--images 256] [--batch 32]

The store is synthetic, with the shape of Flickr30K: 36 regions and 25 unions of 2048 float16, five
captions per image. Steps are complete: batch from the loader, loss, backward pass, clipping, Adam.
Hours per epoch are for 145,000 pairs (RACG's Table IV has 0.41 for GSMN and 0.66 for RACG on one
RTX 2080 Ti).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from features import Caption, Detections, ImageEntry, TextGraph, build_store, open_store
from features.commands import Progress, exit_cleanly
from models.compute import World
from models.configuration import from_dict
from models.training import Data, Trainer, make_model, store_keys

MODELS = ("sgm", "gsmn", "racg", "hrem", "cfsgr")
PAIRS = 145_000
WORDS = [f"word{number}" for number in range(400)]


def synthetic_caption(random: np.random.Generator) -> TextGraph:
    """Return a caption of about 12 words, each the head of the next, with two triplets."""
    n = int(random.integers(8, 17))
    words = tuple(str(word) for word in random.choice(WORDS, n))
    return TextGraph(
        caption=" ".join(words),
        tokens=words,
        lemmas=words,
        upos=("NOUN",) * n,
        xpos=("NN",) * n,
        heads=(-1, *range(n - 1)),
        deprels=("dep",) * n,
        roles=("object",) * n,
        objects=words[:4],
        object_positions=((0,), (1,), (2,), (3,)),
        relations=((0, words[4], 1), (2, words[5], 3)),
        relation_positions=((4,), (5,)),
    )


def synthetic_store(folder: Path, images: int) -> Path:
    """Write a store with the shape of Flickr30K."""
    random = np.random.default_rng(0)
    entries, visual, regions, texts = [], [], [], []
    for row in range(images):
        graphs = [synthetic_caption(random) for _ in range(5)]
        texts += graphs
        captions = tuple(Caption(f"{row}#{k}", graph.caption) for k, graph in enumerate(graphs))
        entries.append(ImageEntry(f"{row}", f"{row}.jpg", "train", captions))
        corners = np.sort(random.random((36, 2, 2)).astype(np.float32) * 400, axis=1)
        visual.append(
            Detections(
                boxes=corners.reshape(36, 4),
                labels=tuple(f"label{n}" for n in random.integers(0, 100, 36)),
                scores=np.ones(36, np.float32),
                size=(400, 400),
                relations=tuple(
                    (int(s), f"near{p}", int(o)) for s, p, o in random.integers(0, 36, (25, 3))
                ),
                relation_scores=np.ones(25, np.float32),
            )
        )
        regions.append(
            (random.random((36, 2048), np.float32), random.random((25, 2048), np.float32))
        )
    return build_store(folder, "synthetic", entries, visual=visual, regions=regions, texts=texts)


def measure(name: str, store_path: Path, args: argparse.Namespace, folder: Path) -> list[str]:
    """Train a few steps and return one row of the table."""
    device = torch.device(args.device)
    options = {"warm_up": 0} if name == "hrem" else {}
    config = from_dict(
        {
            "model": {"name": name, "options": options},
            "data": {"store": str(store_path), "val": "train", "batch_size": args.batch},
            "run": {"folder": str(folder), "epochs": 1},
        }
    )
    store = open_store(store_path)
    data = Data(config, store, store.codebook, store_keys(store))
    trainer = Trainer(config, data, make_model(config, data).to(device), World(), device)
    trainer.progress = Progress(name, "steps", 1, quiet=True)
    stream = iter(data.train_batches(0, 0, World()))
    trainer._step(stream, 1)  # not measured: loads pages and allocates memory
    steps, waits = [], []
    for _ in range(args.steps):
        trainer.speed.reset()
        start = time.perf_counter()
        trainer._step(stream, 1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        steps.append(time.perf_counter() - start)
        waits.append(trainer.speed.waited)
    step = statistics.median(steps)
    share = sum(waits) / sum(steps)
    hours = PAIRS / args.batch * step / 3600
    return [name, f"{1000 * step:.0f}", f"{share:.2%}", f"{args.batch / step:.0f}", f"{hours:.2f}"]


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = synthetic_store(Path(temporary) / "store", args.images)
        head = ["model", "ms per step", "loader wait", "pairs/s", "hours per epoch"]
        print("| " + " | ".join(head) + " |")
        print("|" + " --- |" * len(head))
        for name in args.models:
            row = measure(name, store, args, Path(temporary) / name)
            print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
