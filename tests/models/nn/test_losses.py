"""The triplet loss against loops over all triplets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.nn.losses import negative_mask, triplet_loss


def by_loops(scores, rows, margin, hard, mask_same_image):
    n, total = len(scores), 0.0
    for k in range(n):
        captions, images = [0.0], [0.0]
        for j in range(n):
            if j == k or (mask_same_image and rows[j] == rows[k]):
                continue
            captions.append(max(0.0, margin - scores[k][k] + scores[k][j]))
            images.append(max(0.0, margin - scores[k][k] + scores[j][k]))
        pick = max if hard else sum
        total += pick(captions) + pick(images)
    return total


@given(seed=st.integers(0, 1000), n=st.integers(1, 6), hard=st.booleans(), same=st.booleans())
@settings(max_examples=40, deadline=None)
def test_triplet_loss_equals_loops(seed, n, hard, same):
    make = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, n, generator=make, dtype=torch.float64)
    rows = torch.randint(0, 4, (n,), generator=make)
    loss = triplet_loss(
        scores, negative_mask(rows, mask_same_image=same), margin=0.2, hard_negatives=hard
    )
    expected = by_loops(scores.tolist(), rows.tolist(), 0.2, hard, same)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_without_a_mask_all_but_the_pair_itself_are_negatives():
    scores = torch.rand(4, 4)
    every = negative_mask(torch.zeros(4, dtype=torch.int64), mask_same_image=False)
    assert triplet_loss(scores) == triplet_loss(scores, every)
    assert not every.diagonal().any()
    assert every.sum() == 12


def test_triplet_loss_without_negatives_is_zero_with_a_finite_gradient():
    scores = torch.rand(3, 3, requires_grad=True)
    loss = triplet_loss(scores, negative_mask(torch.tensor([5, 5, 5])))
    loss.backward()
    assert loss == 0
    assert (scores.grad == 0).all()
