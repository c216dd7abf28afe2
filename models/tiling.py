"""How pairwise models cut images x captions into tiles that stay in a processor's fast memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["by_length", "tiles"]

CPU_TILE = 6 * 2**20  # bytes; measured best between 4 and 8 MiB, a small share of an L3 cache
CUDA_TILE = 512 * 2**20  # bytes; large enough that launches do not count


def by_length(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order that sorts rows of a (N, T) mask by real length, and its inverse."""
    order = mask.sum(-1).argsort(stable=True)
    return order, order.argsort()


def tiles(
    images: Tensor, captions: Tensor, pair_bytes: int
) -> tuple[list[slice], list[tuple[slice, int]]]:
    """Cut images and captions into ranges whose pairs fit one tile.

    Args:
        images: (I, R) bool mask.
        captions: (C, T) bool mask, sorted by length.
        pair_bytes: what one pair of full length needs at its widest step.

    Returns:
        Ranges of images; ranges of captions with the length of their longest one.
    """
    room = CUDA_TILE if images.is_cuda else CPU_TILE
    pairs = max(1, room // max(1, pair_bytes))
    image_step = max(1, min(len(images), int((3 * pairs) ** 0.5)))
    caption_step = max(1, pairs // image_step)
    lengths = captions.sum(-1).tolist()
    image_tiles = [slice(i, i + image_step) for i in range(0, len(images), image_step)]
    caption_tiles = [
        (slice(j, j + caption_step), max(1, *lengths[j : j + caption_step]))
        for j in range(0, len(lengths), caption_step)
    ]
    return image_tiles, caption_tiles
