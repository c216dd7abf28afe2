"""Shared blocks: masked reductions against loops, gradients at the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.nn.attention import fill_padding, mean_of_max, mean_of_max_plainly, segment_mean
from models.nn.layers import (
    clipped_l2norm,
    cosine,
    l1norm,
    l2norm,
    last_state,
    leaky_softmax,
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
    torch.testing.assert_close(l1norm(x), torch.tensor([[3 / 7, -4 / 7], [0.0, 0.0]]))
    torch.testing.assert_close(cosine(x, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))[0].item(), 0.6)
    x.requires_grad_()
    (l2norm(x).sum() + cosine(x, torch.ones(2, 2)).sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_leaky_softmax_ignores_padding_on_both_axes():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4)
    alone = leaky_softmax(scores, torch.ones(2, 3) > 0, torch.ones(2, 4) > 0, 9.0)
    clipped = torch.where(scores > 0, scores, 0.1 * scores)
    expected = torch.softmax(9 * clipped / clipped.norm(dim=1, keepdim=True), -1)
    torch.testing.assert_close(alone, expected)
    wide = torch.full((2, 5, 6), 7.0)
    wide[:, :3, :4] = scores
    padded = leaky_softmax(
        wide, torch.arange(5).expand(2, 5) < 3, torch.arange(6).expand(2, 6) < 4, 9.0
    )
    torch.testing.assert_close(padded[:, :3, :4], expected)
    assert (padded[:, 3:] == 0).all()
    assert (padded[..., 4:] == 0).all()
    only = clipped_l2norm(scores, torch.ones(2, 3, 4) > 0, dim=1)
    torch.testing.assert_close(only.square().sum(1), torch.ones(2, 4))


def test_last_state_picks_the_last_real_row():
    states = torch.arange(12.0).view(2, 3, 2)
    assert last_state(states, torch.tensor([2, 0])).tolist() == [[2.0, 3.0], [6.0, 7.0]]


def test_mean_of_max_equals_the_loop_with_small_tiles(monkeypatch):
    import models.nn.attention

    torch.manual_seed(0)
    keys, queries = torch.randn(5, 4, 3) - 3, torch.randn(6, 7, 3)
    key_mask, query_mask = torch.rand(5, 4) < 0.6, torch.rand(6, 7) < 0.6
    key_mask[2], query_mask[4] = False, False  # an image without keys, a caption without queries
    monkeypatch.setattr(models.nn.attention, "TILE", 40)
    monkeypatch.setattr(models.nn.attention, "QUERY_TILE", 5)
    scores = mean_of_max(keys, key_mask, queries, query_mask)
    for j in range(6):
        expected = mean_of_max_plainly(keys, key_mask, queries[j][query_mask[j]])
        torch.testing.assert_close(scores[:, j], expected)
    assert (scores[2] == 0).all()
    assert (scores[:, 4] == 0).all()
    i, j = 0, 1
    best = [max(float(q @ k) for k in keys[i][key_mask[i]]) for q in queries[j][query_mask[j]]]
    assert scores[i, j].item() == pytest.approx(sum(best) / len(best), abs=1e-5)


def test_mean_of_max_sends_the_gradient_to_the_best_key_only():
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]], requires_grad=True)
    queries = torch.tensor([[[2.0, 1.0]]])
    mask = torch.tensor([[True, True, False]])
    mean_of_max(keys, mask, queries, torch.ones(1, 1) > 0).sum().backward()
    assert keys.grad.tolist() == [[[2.0, 1.0], [0.0, 0.0], [0.0, 0.0]]]


def test_fill_padding_and_segment_mean():
    vectors = torch.tensor([[[1.0], [2.0], [9.0]], [[8.0], [8.0], [8.0]]])
    mask = torch.tensor([[False, True, False], [False, False, False]])
    assert fill_padding(vectors, mask).flatten().tolist() == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    means = segment_mean(
        torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[1, 1], [0, 0], [1, 0]]) > 0
    )
    assert means.tolist() == [[2.0, 0.0, 5.0]]


def test_mean_of_max_matches_lgsgm(golden):
    z = golden("lgsgm")
    keys, queries = z["in.score_img"], z["in.score_cap"]
    key_mask = torch.arange(keys.shape[1]) < z["in.obj_num"].unsqueeze(1)
    query_mask = torch.arange(queries.shape[1]) < z["in.cap_len"].unsqueeze(1)
    scores = mean_of_max(keys, key_mask, queries, query_mask)
    n, m = z["in.cap_len"], z["in.obj_num"].unsqueeze(1)  # LGSGM divides by n + 1e-6
    expected = z["out.score_t2i"] * ((n + 1e-6) / n)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    turned = mean_of_max(queries, query_mask, keys, key_mask).T
    torch.testing.assert_close(turned, z["out.score_i2t"] * ((m + 1e-6) / m), atol=1e-5, rtol=0)
