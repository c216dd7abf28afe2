"""Shared blocks: masked reductions against loops, gradients at the edges."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.nn.layers import (
    clipped_l2norm,
    cosine,
    l2norm,
    last_state,
    masked_max,
    masked_mean,
    masked_softmax,
)


@given(seed=st.integers(0, 1000), dim=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_masked_reductions_equal_loops(seed, dim):
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 5, generator=make)
    mask = torch.rand(3, 4, 5, generator=make) < 0.5
    soft, mean, best = masked_softmax(x, mask, dim), masked_mean(x, mask, dim), None
    best = masked_max(x, mask, dim)
    columns = x.movedim(dim, -1).reshape(-1, x.shape[dim])
    masks = mask.movedim(dim, -1).reshape(-1, x.shape[dim])
    soft = soft.movedim(dim, -1).reshape(columns.shape)
    for row, real, weights, average, top in zip(
        columns, masks, soft, mean.flatten(), best.flatten(), strict=True
    ):
        expected = torch.zeros(len(row))
        if real.any():
            expected[real] = torch.softmax(row[real], 0)
        torch.testing.assert_close(weights, expected)
        torch.testing.assert_close(average, row[real].mean() if real.any() else row.new_tensor(0))
        assert top == (row[real].max() if real.any() else 0)


def test_norms_and_cosine_by_hand():
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    torch.testing.assert_close(l2norm(x), torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    torch.testing.assert_close(l2norm(x, 0), torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    torch.testing.assert_close(l2norm(x, scale=2.0), torch.tensor([[1.2, -1.6], [0.0, 0.0]]))
    torch.testing.assert_close(cosine(x, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))[0].item(), 0.6)
    x.requires_grad_()
    (l2norm(x).sum() + cosine(x, torch.ones(2, 2)).sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_clipped_l2norm_is_a_scaled_norm_over_the_queries():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4)
    clipped = torch.where(scores > 0, scores, 0.1 * scores)
    expected = 9 * clipped / clipped.norm(dim=1, keepdim=True)
    torch.testing.assert_close(clipped_l2norm(scores, 1, 9.0), expected)


def test_last_state_picks_the_last_real_row():
    states = torch.arange(12.0).view(2, 3, 2)
    assert last_state(states, torch.tensor([2, 0])).tolist() == [[2.0, 3.0], [6.0, 7.0]]
