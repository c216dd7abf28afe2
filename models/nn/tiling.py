"""How pairwise models cut images x captions into tiles that stay in a processor's fast memory."""

from __future__ import annotations

import itertools

from torch import Tensor

__all__ = ["by_length", "tiles"]

CPU_TILE = 6 * 2**20  # bytes; measured best between 4 and 8 MiB, a small share of an L3 cache
CUDA_TILE = 512 * 2**20  # bytes; large enough that launches do not count


def by_length(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order that sorts rows of a (N, T) mask by real length, and its inverse."""
    order = mask.sum(-1).argsort(stable=True)
    return order, order.argsort()


def tiles(
    images: Tensor, captions: Tensor, pair_bytes: int, shape: float = 3.0
) -> tuple[list[slice], list[tuple[slice, int]]]:
    """Cut images and captions into ranges whose pairs fit one tile.

    Args:
        images: (I, R) bool mask.
        captions: (C, T) bool mask, sorted by length.
        pair_bytes: what one pair of full length needs at its widest step, in proportion to its
            length.
        shape: images per caption of a tile.

    Returns:
        Ranges of images; ranges of captions with the length of their longest one. Shorter
        captions share a tile with more others.
    """
    room = CUDA_TILE if images.is_cuda else CPU_TILE
    pairs = max(1, room // max(1, pair_bytes))
    image_step = max(1, min(len(images), int((shape * pairs) ** 0.5)))
    parts = -(-len(images) // image_step)  # of equal size: a small last one would cost like a whole
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
