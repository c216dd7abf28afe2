"""Tiles: every pair once, within the memory of a tile, of similar size."""

from __future__ import annotations

import pytest
import torch

from models.nn import tiling
from models.nn.tiling import score_in_tiles, tiles


@pytest.mark.parametrize(
    ("images", "captions", "pair_bytes"), [(1, 1, 9), (7, 50, 40), (100, 3, 1)]
)
def test_tiles_cover_every_pair_once_within_their_memory(images, captions, pair_bytes, monkeypatch):
    monkeypatch.setattr(tiling, "CPU_TILE", 1000)
    lengths = torch.randint(1, 9, (captions,), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(8) < lengths[:, None]
    mask = mask[mask.sum(-1).argsort()]
    across, down = tiles(torch.ones(images, 4, dtype=torch.bool), mask, 8 * pair_bytes)
    seen = torch.zeros(images, captions)
    for rows in across:
        for columns, longest in down:
            seen[rows, columns] += 1
            real = mask[columns]
            assert longest == real.sum(-1).max()
            pairs = (rows.stop - rows.start) * len(real)
            assert pairs * longest * pair_bytes <= 1000 or pairs == rows.stop - rows.start
    assert (seen == 1).all()


def test_images_are_cut_into_parts_of_similar_size(monkeypatch):
    monkeypatch.setattr(tiling, "CPU_TILE", 3 * 9 * 9)
    mask = torch.ones(100, 1, dtype=torch.bool)
    across, _ = tiles(mask, torch.ones(5, 1, dtype=torch.bool), 1, shape=1 / 3)
    sizes = {rows.stop - rows.start for rows in across}
    assert (len(across), sizes) == (12, {8, 9})  # and not eleven of 9 and one of 1


@pytest.mark.parametrize("recompute", [False, True])
def test_tiled_scores_equal_one_product(recompute, monkeypatch):
    monkeypatch.setattr(tiling, "CPU_TILE", 200)
    torch.manual_seed(0)
    regions = torch.rand(6, 4, 3, requires_grad=True)
    word_mask = torch.arange(5) < torch.tensor([3, 1, 5, 2, 5, 1, 4])[:, None]
    words = torch.rand(7, 5, 3) * word_mask.unsqueeze(-1)
    seen = []

    def cut_captions(rows, longest):
        seen.append(longest)
        return words[rows, :longest]

    found = score_in_tiles(
        torch.ones(6, 4, dtype=torch.bool),
        word_mask,
        4 * 4 * 5,
        cut_images=lambda rows: regions[rows],
        cut_captions=cut_captions,
        score=lambda image, text: torch.einsum("ird,ctd->ic", image, text),
        recompute=recompute,
    )
    expected = torch.einsum("ird,ctd->ic", regions, words)
    torch.testing.assert_close(found, expected)
    assert len(seen) > 1
    assert seen == sorted(seen)
    (slope,) = torch.autograd.grad(found.square().sum(), regions)
    torch.testing.assert_close(slope, *torch.autograd.grad(expected.square().sum(), regions))
