"""The GRU with its own gradient against PyTorch's: states, gradients, edges."""

from __future__ import annotations

import pytest
import torch

from models.nn.layers import BiGru, last_state

LENGTHS = torch.tensor([3, 7, 0, 1, 7, 2])


def everything(gru, run, weigh):
    """Return the results of ``run`` and all gradients of a weighted sum of them."""
    x = torch.randn(6, 7, 5, generator=torch.Generator().manual_seed(1)).double()
    x.requires_grad_()
    found = run(x, LENGTHS)
    sum((part * weight).sum() for part, weight in zip(found, weigh, strict=True)).backward()
    values = [*found, x.grad, *(value.grad for value in gru.parameters())]
    gru.zero_grad()
    return values


@pytest.mark.parametrize("bidirectional", [True, False])
def test_states_and_gradients_are_those_of_pytorch(bidirectional):
    torch.manual_seed(0)
    gru = BiGru(5, 6, bidirectional=bidirectional).double()
    weigh = torch.randn(6, 7, 6).double(), torch.randn(6, 6).double()
    own, library = (everything(gru, run, weigh) for run in (gru.run, gru._library))
    for one, other in zip(own, library, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_at_end_is_the_last_state_of_both_directions(bidirectional):
    torch.manual_seed(0)
    gru = BiGru(5, 6, bidirectional=bidirectional).double()
    weigh = (torch.randn(6, 6).double(),)
    own = everything(gru, lambda x, lengths: (gru.at_end(x, lengths),), weigh)
    library = everything(
        gru, lambda x, lengths: (last_state(gru._library(x, lengths)[0], lengths),), weigh
    )
    for name, one, other in zip(
        ["state", "x", *(name for name, _ in gru.named_parameters())], own, library, strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0, msg=name)


def test_nothing_to_read_gives_zeros():
    gru = BiGru(5, 6)
    x, lengths = torch.randn(3, 4, 5), torch.zeros(3, dtype=torch.int64)
    states, final = gru.run(x, lengths)
    assert states.shape == (3, 4, 6)
    assert not states.any()
    assert not final.any()
    assert not gru.at_end(x, lengths).any()
    assert gru.run(x[:, :0], lengths)[0].shape == (3, 0, 6)


def test_lower_precision_is_left_to_pytorch():
    gru = BiGru(5, 6)
    x, lengths = torch.randn(3, 4, 5), torch.tensor([4, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        found = gru.run(x, lengths)[0]
        assert gru.at_end(x, lengths).shape == (3, 6)
    torch.testing.assert_close(found.float(), gru.run(x, lengths)[0], atol=0.05, rtol=0)
