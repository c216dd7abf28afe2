"""The gradient of the blockwise match, written by hand, against that of autograd."""

from __future__ import annotations

import pytest
import torch

from models.nn import blockwise
from models.nn.blockwise import cut_blocks, match_nodes

SIDES = [(True, True), (True, False), (False, True)]


def slopes(sizes, norm, sides):
    """Return the matching vectors, and their gradients by words and regions."""
    torch.manual_seed(0)
    captions, length, images, boxes, width, blocks = sizes
    words = torch.randn(captions, length, width, dtype=torch.float64)
    regions = torch.randn(images, boxes, width, dtype=torch.float64)
    word_mask = torch.arange(length) < torch.randint(1, length + 1, (captions, 1))
    region_mask = torch.arange(boxes) < torch.randint(0, boxes + 1, (images, 1))
    for nodes in (words, regions):
        nodes /= nodes.norm(dim=-1, keepdim=True)
        nodes.requires_grad_()
    both = cut_blocks(words, word_mask, blocks), cut_blocks(regions, region_mask, blocks)
    one, other = match_nodes(*both, 20.0, norm, for_words=sides[0], for_regions=sides[1])
    vectors = [side for side in (one, other) if side is not None]
    loss = sum((side * torch.randn_like(side)).sum() for side in vectors)
    return [*vectors, *torch.autograd.grad(loss, [words, regions])]


@pytest.mark.parametrize("norm", ["clipped_l2norm", "none"])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("sizes", [(3, 4, 2, 5, 8, 2), (2, 5, 3, 4, 12, 3), (1, 1, 1, 1, 4, 2)])
def test_the_gradient_is_that_of_autograd(sizes, sides, norm, monkeypatch):
    found = slopes(sizes, norm, sides)
    monkeypatch.setattr(blockwise, "_by_hand", lambda vectors: False)
    for one, other in zip(found, slopes(sizes, norm, sides), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_gradient_does_not_depend_on_how_much_fits_the_cache(monkeypatch):
    whole = slopes((3, 4, 4, 5, 8, 2), "clipped_l2norm", (True, True))
    monkeypatch.setattr(blockwise, "CACHE", 1)
    for one, other in zip(
        whole, slopes((3, 4, 4, 5, 8, 2), "clipped_l2norm", (True, True)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_gradient_is_that_of_differences():
    torch.manual_seed(0)
    words, regions = torch.rand(2, 3, 4).double(), torch.rand(2, 3, 4).double()
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def run(words, regions):
        return match_nodes(cut_blocks(words, mask, 2), cut_blocks(regions, mask, 2), 3.0, "none")

    inputs = words.requires_grad_(), regions.requires_grad_()
    assert torch.autograd.gradcheck(run, inputs)


def test_lower_precision_and_scoring_use_the_same_formula():
    nodes = torch.nn.functional.normalize(torch.rand(2, 3, 8), dim=-1).requires_grad_()
    mask = torch.ones(2, 3, dtype=torch.bool)

    def run():
        return match_nodes(cut_blocks(nodes, mask, 2), cut_blocks(nodes, mask, 2), 5.0, "none")[0]

    trained = run()
    with torch.no_grad():
        torch.testing.assert_close(run(), trained.detach())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run().float(), trained, atol=0.05, rtol=0)
