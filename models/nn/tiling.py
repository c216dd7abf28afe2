"""Score images x captions in tiles that stay in a processor's fast memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CPU_TILE = 6 * 2**20  # bytes; measured best between 4 and 8 MiB, a small share of an L3 cache
CUDA_TILE = 512 * 2**20  # bytes; large enough that the cost of kernel launches is negligible

Images = TypeVar("Images")
Captions = TypeVar("Captions")


def score_in_tiles(
    image_mask: Tensor,
    word_mask: Tensor,
    pair_bytes: int,
    *,
    cut_images: Callable[[slice], Images],
    cut_captions: Callable[[Tensor, int], Captions],
    score: Callable[[Images, Captions], Tensor],
    shape: float = 3.0,
    recompute: bool = False,
) -> Tensor:
    """Score all pairs tile by tile; captions of similar length share a tile.

    Args:
        image_mask: (I, R) bool.
        word_mask: (C, T) bool.
        pair_bytes: memory of one pair of full length in the widest step of ``score``.
        cut_images: takes a range of images, returns what ``score`` reads of them.
        cut_captions: takes rows of captions and the length of the longest one, likewise.
        score: returns the (n_images, n_captions) scores of one tile.
        shape: images per caption of a tile.
        recompute: while training, compute each tile again for the gradient instead of keeping
            its intermediate results; a single tile is always kept.
    Returns: (I, C) scores.
    """
    order = word_mask.sum(-1).argsort(stable=True)
    image_tiles, caption_tiles = tiles(image_mask, word_mask[order], pair_bytes, shape)
    texts = [cut_captions(order[rows], longest) for rows, longest in caption_tiles]
    again = recompute and torch.is_grad_enabled() and len(image_tiles) * len(texts) > 1
    bands = []
    for rows in image_tiles:
        images = cut_images(rows)
        band = [
            checkpoint(score, images, text, use_reentrant=False) if again else score(images, text)
            for text in texts
        ]
        bands.append(torch.cat(band, 1))
    return torch.cat(bands)[:, order.argsort()]


def tiles(
    images: Tensor, captions: Tensor, pair_bytes: int, shape: float = 3.0
) -> tuple[list[slice], list[tuple[slice, int]]]:
    """Cut images and captions into ranges whose pairs fit into one tile.

    Args:
        images: (I, R) bool mask.   captions: (C, T) bool mask, sorted by length.
        pair_bytes, shape: as in ``score_in_tiles``; the memory is proportional to the length.

    Returns: ranges of images, and ranges of captions with the length of their longest one. A tile
        holds more captions when they are short.
    """
    room = CUDA_TILE if images.is_cuda else CPU_TILE
    pairs = max(1, room // max(1, pair_bytes))
    image_step = max(1, min(len(images), int((shape * pairs) ** 0.5)))
    parts = -(-len(images) // image_step)  # of equal size: a small last one costs as much as others
    image_step = -(-len(images) // parts)
    ends = [part * len(images) // parts for part in range(parts + 1)]
    image_tiles = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
    lengths = captions.sum(-1).clamp(min=1).tolist()
    words = max(1, pairs // image_step) * captions.shape[1]  # of a tile, padding included
    caption_tiles = []
    start = 0
    while start < len(lengths):
        widest = max(1, words // lengths[start])
        longest = lengths[min(start + widest, len(lengths)) - 1]
        stop = min(start + max(1, words // longest), len(lengths))
        caption_tiles.append((slice(start, stop), lengths[stop - 1]))
        start = stop
    return image_tiles, caption_tiles
