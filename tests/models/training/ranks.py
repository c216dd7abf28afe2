"""Program of the ranks in ``test_uneven_ranks.py``: ``python ranks.py JOB.json``, once per rank.

A job lists cases, which all run in one process group because starting a process takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from features.commands.program import exit_cleanly
from features.store import open_store
from models.compute.distributed import Exchange, World, average_gradients, join_world
from models.configuration.config import from_dict
from models.evaluation.scoring import score_split
from models.registry import create, options_for
from models.train import train_rank
from models.training import trainer
from models.training.data import Data
from models.training.optim import without_compiler
from models.training.run import RunFolder
from models.training.synthetic import random_captions, random_images

TINY = {"image_dim": 16, "vocab_size": 50, "n_labels": 12, "n_predicates": 8, "n_tags": 10}


def noted(folder: Path, rank: int):
    """Make ``Data.train_batches`` write the rows of every batch to a file."""
    original = Data.train_batches

    def batches(self, epoch, pairs, world, **options):
        step = pairs // self.config.data.batch_size
        for images, captions in original(self, epoch, pairs, world, **options):
            assert len(images.rows) == len(captions.rows)
            with (folder / f"rows-{rank}.jsonl").open("a") as file:
                line = [epoch, step, captions.rows.tolist(), world.size]
                file.write(json.dumps(line) + "\n")
            step += 1
            yield images, captions

    return original, batches


def plain_descent(model, config):
    """Replace Adam, whose steps would be large even for gradients of rounding errors."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    groups = [{"params": parameters, "lr": config.lr, "scale": 1.0}]
    return without_compiler(torch.optim.SGD)(groups, lr=config.lr)


def train_case(tree: dict, world: World) -> None:
    config = from_dict(tree)
    folder = Path(config.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    original, Data.train_batches = noted(folder, world.rank)
    before, trainer.make_optimizer = trainer.make_optimizer, plain_descent
    try:
        with contextlib.ExitStack() as held:
            train_rank(config, RunFolder(folder), world, torch.device("cpu"), held)
    finally:
        Data.train_batches, trainer.make_optimizer = original, before


def exchange_case(name: str, options: dict, counts: list[int], world: World) -> None:
    """Compare loss and gradients of a divided batch with those of the whole batch."""
    torch.manual_seed(0)
    model = create(name, **{**TINY, **options})
    model.double().eval()  # batch statistics and dropout differ between ranks
    total = sum(counts)
    images, captions = random_images(total), random_captions(total, images=max(1, total - 1))
    images = replace(images, objects=images.objects.double(), unions=images.unions.double())
    whole = model.loss(images, captions)
    whole.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert wanted
    model.zero_grad()
    start = sum(counts[: world.rank])
    share = slice(start, start + counts[world.rank])
    stand_in = not counts[world.rank]
    mine = slice(0, 1) if stand_in else share
    images, captions = images.index(mine), captions.index(mine)
    loss = model.loss(images, captions, Exchange(world, captions.rows, stand_in=stand_in))
    loss.backward()
    average_gradients(model, world)
    torch.testing.assert_close(loss, whole, msg=f"{name} {counts}: loss")
    for n, p in model.named_parameters():
        if n in wanted:
            scale = max(1.0, wanted[n].abs().max().item())
            worst = (p.grad - wanted[n]).abs().max().item()
            assert worst <= 1e-6 * scale, f"{name} {counts} {n}: {worst}"


def score_case(store: str, split: str, out: str, world: World) -> None:
    """Score a split together; buffers differ between ranks, those of the first are used."""
    opened = open_store(store)
    book = opened.codebook
    torch.manual_seed(0)
    options = options_for("cfsgr", opened, book, None, embed_dim=8, word_dim=6, sim_dim=5)
    model = create("cfsgr", **vars(options))
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer += world.rank
    found = score_split(model, opened, split, book, world, batch_size=4)
    assert (found is None) == (not world.first)
    if found is not None:
        torch.save(found, out)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        for tree in job.get("train", ()):
            train_case(tree, world)
        for name, options, counts in job.get("exchange", ()):
            exchange_case(name, options, counts, world)
        for case in job.get("score", ()):
            score_case(*case, world)
    sys.stdout.write("all cases done\n")


if __name__ == "__main__":
    exit_cleanly(main)
