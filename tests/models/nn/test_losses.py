"""The triplet loss against loops over all triplets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
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


def test_the_mean_is_the_loss_of_lgsgm(golden):
    """Its score adds objects and predicates, which are the same in the fixture; margin 0.35."""
    z = golden("lgsgm")
    scores = 2 * z["out.score_t2i"][:, :5]
    found = triplet_loss(scores, margin=0.35, mean=True)
    assert found.item() == pytest.approx(z["out.contrastive_mean_t2i_5x5"].item(), rel=1e-6)
    assert triplet_loss(scores, margin=0.35).item() == pytest.approx(5 * found.item())
    every = [triplet_loss(scores, hard_negatives=False, mean=mean) for mean in (False, True)]
    assert every[0].item() == pytest.approx(25 * every[1].item())


def test_the_option_of_a_model_selects_the_mean(tiny, make_images, make_captions):
    losses = []
    for reduction in ("sum", "mean"):
        torch.manual_seed(0)
        options = {"word_dim": 6, "embed_dim": 8, "loss_reduction": reduction}
        model = models.create("sgm", **tiny, **options).eval()
        losses.append(model.loss(make_images(4), make_captions(4)).item())
    assert losses[0] == pytest.approx(4 * losses[1])
