"""Re-ranking compared with a literal implementation of its definition."""

from __future__ import annotations

import numpy as np
import pytest

from features.errors import UsageError
from models.evaluation.metrics import recall
from models.evaluation.rerank import rerank


def slowly(sims, top):
    """New caption order of every image, straight from the definition."""
    orders = []
    for image, row in enumerate(sims):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        look_back = {c: sum(sims[:, c] > sims[image, c]) for c in order[:top]}
        orders.append(sorted(order[:top], key=lambda c: look_back[c]) + order[top:])
    return orders


@pytest.mark.parametrize("seed", range(8))
def test_order_follows_the_definition(seed):
    rng = np.random.default_rng(seed)
    sims = rng.normal(size=(9, 21)).astype(np.float32)
    if seed % 2:
        sims = np.round(sims)  # ties in both directions
    top = (1, 4, 15, 40)[seed % 4]
    places = rerank(sims, top)
    assert np.argsort(-places, axis=1).tolist() == slowly(sims, top)


def test_one_caption_changes_nothing_and_generic_captions_rank_lower():
    #                caption 0 is generic: every image likes it, but its own list starts with 2
    sims = np.array([[0.8, 0.7, 0.0], [0.8, 0.0, 0.7], [0.9, 0.1, 0.2]], np.float32)
    assert np.argsort(-rerank(sims, 1), axis=1)[:, 0].tolist() == [0, 0, 0]
    assert np.argsort(-rerank(sims, 2), axis=1)[:, 0].tolist() == [1, 2, 0]
    owner = [2, 0, 1]
    assert recall(sims, owner).i2t_r1 == pytest.approx(100 / 3)
    assert recall(rerank(sims, 2), owner).i2t_r1 == 100


def test_zero_captions_are_refused():
    with pytest.raises(UsageError, match="top is 0"):
        rerank(np.zeros((2, 2)), 0)
