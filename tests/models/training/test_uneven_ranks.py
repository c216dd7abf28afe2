"""Ranks with different numbers of pairs, or none: each pair once, with the right weight."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from features.batches.epoch_order import epoch_order, rank_slice
from models.compute.distributed import World
from models.evaluation.scoring import shares
from models.training import checkpoint

REPOSITORY = Path(__file__).resolve().parents[3]
DRIVER = Path(__file__).with_name("ranks.py")


@pytest.fixture
def run_ranks(rank_env, tmp_path):
    """Return a function that runs the driver as ``ranks`` processes over gloo."""

    def run(job, ranks):
        path = tmp_path / f"job-{ranks}.json"
        path.write_text(json.dumps(job))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        started = [
            subprocess.Popen(
                [sys.executable, str(DRIVER), str(path)],
                cwd=REPOSITORY,
                env={**env, **world},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for world in rank_env(ranks)
        ]
        try:
            said = [process.communicate(timeout=240)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        for process, text in zip(started, said, strict=True):
            assert process.returncode == 0, text[-3000:]
            assert "all cases done" in text

    return run


def driver():
    spec = importlib.util.spec_from_file_location("ranks", DRIVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_here(*trees):
    """Train in this process what the ranks train together."""
    for tree in trees:
        driver().train_case(tree, World())


@pytest.fixture
def tree_of(tiny_store, tmp_path):
    store = tiny_store(images=60, captions=1)  # 30 pairs in train

    def make(folder, pairs, batch, **changes):
        tree = {
            "model": {"name": "sgm", "options": {"embed_dim": 16, "word_dim": 8}},
            "data": {"store": str(store.path), "train": f"train[:{pairs}]", "batch_size": batch},
            "optim": {"lr": 1e-3},
            "run": {"epochs": 2, "log_steps": 1, "deterministic": True},
        }
        tree["run"]["folder"] = str(tmp_path / folder)
        for key, value in changes.items():
            section, _, name = key.partition("_")
            tree[section][name] = value
        return tree

    make.store = store
    return make


def steps_of(folder):
    """Return {(epoch, step): [rows of each rank]} from the files of the ranks."""
    found = {}
    for path in sorted(Path(folder).glob("rows-*.jsonl")):
        for line in path.read_text().splitlines():
            epoch, step, rows, _ = json.loads(line)
            found.setdefault((epoch, step), []).append(rows)
    return found


def weights_of(folder):
    return checkpoint.load_last(Path(folder) / "last.pt")["model"]


CASES = (  # pairs, batch: with 2 and with 3 ranks
    (29, 12),  # last batch of 5: 3 + 2, and 2 + 2 + 1
    (25, 6),  # last batch of 1: all ranks but the first have none
    (2, 6),  # with 3 ranks fewer pairs than ranks
)


@pytest.mark.cluster
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_pair_once_and_the_weights_of_one_process(tree_of, run_ranks, ranks):
    jobs = {
        size: [
            tree_of(f"{size}-{number}-{kind}", *case, optim_global_negatives=kind == "global")
            for number, case in enumerate(CASES)
            for kind in ("global", "local")
        ]
        for size in (1, ranks)
    }
    run_here(*jobs[1])
    run_ranks({"train": jobs[ranks]}, ranks)
    rows = tree_of.store.caption_rows("train")
    for alone, together in zip(jobs[1], jobs[ranks], strict=True):
        pairs = int(together["data"]["train"].split(":")[1][:-1])
        one, many = steps_of(alone["run"]["folder"]), steps_of(together["run"]["folder"])
        assert one.keys() == many.keys()
        assert {epoch for epoch, _ in many} == {0, 1}
        for where, (batch,) in one.items():
            assert len(many[where]) == ranks
            assert sorted(chain(*many[where])) == sorted(batch), where
        for epoch in (0, 1):
            seen = chain(*(row for (e, _), parts in many.items() if e == epoch for row in parts))
            assert sorted(seen) == rows[:pairs].tolist()
        if not together["optim"]["global_negatives"]:
            continue  # other negatives, other weights
        before, after = (weights_of(tree["run"]["folder"]) for tree in (alone, together))
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.cluster
def test_two_then_three_then_one_rank_within_an_epoch(tree_of, run_ranks, tmp_path):
    whole = tree_of("whole", 29, 6, run_max_steps=9)  # 5 steps an epoch
    moving = tree_of("moving", 29, 6)
    run_here(whole)
    for ranks, until in ((2, 2), (3, 7)):
        moving["run"]["max_steps"] = until
        run_ranks({"train": [moving]}, ranks)
    moving["run"]["max_steps"] = 9
    run_here(moving)
    one, many = steps_of(tmp_path / "whole"), steps_of(tmp_path / "moving")
    assert {where: sorted(chain(*rows)) for where, rows in many.items()} == {
        where: sorted(rows) for where, (rows,) in one.items()
    }
    before, after = weights_of(tmp_path / "whole"), weights_of(tmp_path / "moving")
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.cluster
def test_all_models_have_the_gradients_of_the_whole_batch(run_ranks):
    small = {"embed_dim": 16, "word_dim": 8}
    options = {
        "sgm": small,
        "gsmn": {"embed_dim": 64, "word_dim": 8, "blocks": 4},
        "racg": {**small, "heads": 4, "position_dim": 4},
        "hrem": {**small, "heads": 4, "warm_up": 0, "negatives": "likeliest"},  # no draws
        "cfsgr": small,
        "scan": small,
        "vse": small,
    }
    cases = [[n, o, counts] for n, o in options.items() for counts in ([3, 1, 2], [2, 1, 0])]
    run_ranks({"exchange": [*cases, ["vse", small, [1, 0, 0]]]}, 3)


@pytest.mark.cluster
def test_ranks_score_a_split_together(tiny_store, run_ranks, tmp_path):
    store = tiny_store(images=48)
    splits = ("test", "val[:2]", "val[:1]")  # 16 images, and fewer than ranks
    jobs = [[str(store.path), split, str(tmp_path / f"{at}.pt")] for at, split in enumerate(splits)]
    run_ranks({"score": jobs}, 3)
    for path, split, out in jobs:
        together = torch.load(out)
        driver().score_case(path, split, out, World())
        alone = torch.load(out)
        assert together.shape == alone.shape
        assert alone.std() > 0
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6, msg=split)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 29])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_all_rows(count, world):
    rows = epoch_order(np.arange(count) + 7, np.arange(count), seed=3, epoch=2)
    parts = [rank_slice(rows, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(7, 7 + count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    cuts = shares(count, world)
    assert [cut.start for cut in cuts[1:]] == [cut.stop for cut in cuts[:-1]]
    assert (cuts[0].start, cuts[-1].stop) == (0, count)
    lengths = [cut.stop - cut.start for cut in cuts]
    assert max(lengths) - min(lengths) <= 1
