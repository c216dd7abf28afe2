"""Tiles: every pair once, within the room, of like size."""

from __future__ import annotations

import pytest
import torch

from models.nn import tiling
from models.nn.tiling import by_length, tiles


@pytest.mark.parametrize(
    ("images", "captions", "pair_bytes"), [(1, 1, 9), (7, 50, 40), (100, 3, 1)]
)
def test_tiles_cover_every_pair_once_and_keep_to_their_room(
    images, captions, pair_bytes, monkeypatch
):
    monkeypatch.setattr(tiling, "CPU_TILE", 1000)
    lengths = torch.randint(1, 9, (captions,), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(8) < lengths[:, None]
    order, undo = by_length(mask)
    assert torch.equal(mask[order][undo], mask)
    across, down = tiles(torch.ones(images, 4, dtype=torch.bool), mask[order], 8 * pair_bytes)
    seen = torch.zeros(images, captions)
    for rows in across:
        for columns, longest in down:
            seen[rows, columns] += 1
            real = mask[order][columns]
            assert longest == real.sum(-1).max()
            pairs = (rows.stop - rows.start) * len(real)
            assert pairs * longest * pair_bytes <= 1000 or pairs == rows.stop - rows.start
    assert (seen == 1).all()


def test_images_are_cut_into_parts_of_like_size(monkeypatch):
    monkeypatch.setattr(tiling, "CPU_TILE", 3 * 9 * 9)
    mask = torch.ones(100, 1, dtype=torch.bool)
    across, _ = tiles(mask, torch.ones(5, 1, dtype=torch.bool), 1, shape=1 / 3)
    sizes = {rows.stop - rows.start for rows in across}
    assert (len(across), sizes) == (12, {8, 9})  # and not eleven of 9 and one of 1
