"""Products by oneDNN against those of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.nn import products
from models.nn.products import Packed, apply_linear, product
from models.nn.recurrent import gru


@pytest.fixture(autouse=True, params=[1, 2**60], ids=["onednn", "plain"])
def smallest(request, monkeypatch):
    """Multiply everything, or nothing, by oneDNN."""
    monkeypatch.setattr(products, "SMALLEST", request.param)


@pytest.mark.parametrize("bias", [True, False])
def test_products_of_rows_views_and_packed_weights(bias):
    torch.manual_seed(0)
    x, weight = torch.randn(7, 5), torch.randn(6, 5)
    shift = torch.randn(6) if bias else None
    wanted = nn.functional.linear(x, weight, shift)
    torch.testing.assert_close(product(x, weight, shift), wanted)
    view = weight.t().contiguous().t()
    torch.testing.assert_close(product(x[:, :], view, shift), wanted)
    wide = torch.cat([x, x], 1)[:, 5:]
    for packed in (Packed(weight, 7, 10), Packed(view, 7, 10), Packed(weight, 7, 1)):
        for rows in (7, 2, 1):
            torch.testing.assert_close(packed.product(wide[:rows], shift), wanted[:rows])


def test_a_linear_layer_and_its_gradients():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 6), torch.randn(2, 4, 5, requires_grad=True)
    weigh = torch.randn(2, 4, 6)
    found = []
    for run in (lambda: apply_linear(layer, x), lambda: layer(x)):
        out = run()
        learned = [x, layer.weight, layer.bias]
        found.append([out, *torch.autograd.grad((out * weigh).sum(), learned)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert apply_linear(layer, x).dtype is torch.bfloat16


def test_recurrent_layers_with_packed_weights():
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 4)
    counts = [3, 3, 3, 2, 2, 1, 1]
    x = torch.randn(sum(counts), 3, requires_grad=True)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    state, states = torch.zeros(3, 4), []
    for rows in x.split(counts):
        state = cell(rows, state[: len(rows)])
        states.append(state)
    plain, fast = torch.cat(states), gru(x, counts, *weights)
    torch.testing.assert_close(fast, plain)
    weigh = torch.randn_like(plain)
    slopes = [torch.autograd.grad((out * weigh).sum(), [x, *weights]) for out in (fast, plain)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wrong", ["another signature", "another result"])
def test_operators_that_another_release_changed_are_not_used(monkeypatch, wrong):
    def changed(x, *rest):
        if wrong == "another signature":
            raise RuntimeError("expected at most 3 arguments")
        return x

    assert products._found() is not None
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", changed)
    assert products._found() is None
