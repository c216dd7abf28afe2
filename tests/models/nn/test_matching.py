"""The score of two sets of vectors against loops."""

from __future__ import annotations

import pytest
import torch

from models.nn import matching
from models.nn.matching import fill_padding, mean_of_max, mean_of_max_plain, segment_mean


def test_mean_of_max_equals_the_loop_with_small_tiles(monkeypatch):
    torch.manual_seed(0)
    keys, queries = torch.randn(5, 4, 3) - 3, torch.randn(6, 7, 3)
    key_mask, query_mask = torch.rand(5, 4) < 0.6, torch.rand(6, 7) < 0.6
    key_mask[2], query_mask[4] = False, False  # an image without keys, a caption without queries
    monkeypatch.setattr(matching, "TILE", 40)
    monkeypatch.setattr(matching, "QUERY_TILE", 5)
    scores = mean_of_max(keys, key_mask, queries, query_mask)
    for j in range(6):
        expected = mean_of_max_plain(keys, key_mask, queries[j][query_mask[j]])
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
