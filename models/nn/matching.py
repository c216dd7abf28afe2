"""The score of two sets of vectors: the mean over queries of the best key. SGM and CFSGR use it.

The similarities of a tile are one matrix product over the real queries of all captions. They are
then reduced per image and per caption, so nothing is computed for padded words.
"""

from __future__ import annotations

import torch
from torch import Tensor

# One matrix product of ``mean_of_max``: how many queries it has, and how many similarities are
# held until they are reduced. Small enough for a core's cache, large enough to run at its peak
# (measured: the time is flat around these values).
QUERY_TILE = 1024
TILE = 2**20
CUDA_TILES = 64  # times larger on a GPU


def fill_padding(vectors: Tensor, mask: Tensor) -> Tensor:
    """Replace padded rows with the first real row of their item.

    A maximum over all rows is then the maximum over the real ones, and no pass masks all pairs.
    An item without real rows becomes zeros.

    Args:
        vectors: (B, K, D).   mask: (B, K) bool.
    """
    first = mask.int().argmax(1)  # 0 where none is real
    lead = vectors[torch.arange(len(vectors), device=vectors.device), first].unsqueeze(1)
    filled = torch.where(mask.unsqueeze(-1), vectors, lead)
    return filled.masked_fill(~mask.any(1).view(-1, 1, 1), 0.0)


def segment_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average flat per-query values over the queries of each caption.

    Args:
        values: (I, Q), one column per real query, caption after caption.
        mask: (C, T) bool with Q True entries.

    Returns:
        (I, C); 0 for a caption without queries. It is a matrix product, so the order of summation
        is always the same, also on a GPU.
    """
    owner = torch.nonzero(mask)[:, 0]  # (Q,)
    share = values.new_zeros(len(owner), len(mask))
    counts = mask.sum(1).clamp(min=1).to(values.dtype)
    each = (1.0 / counts[owner]).to(share.dtype)  # autocast divides in float32
    share[torch.arange(len(owner), device=owner.device), owner] = each
    return values @ share


def mean_of_max(keys: Tensor, key_mask: Tensor, queries: Tensor, query_mask: Tensor) -> Tensor:
    """Mean over a caption's queries of the best dot product with an image's keys.

    Args:
        keys: (I, K, D) and key_mask: (I, K) bool, of the images.
        queries: (C, T, D) and query_mask: (C, T) bool, of the captions.
    Returns: (I, C); 0 where an image has no key or a caption no query.
    """
    n_images, n_keys, width = keys.shape
    flat = queries[query_mask]  # (Q, D)
    if len(flat) == 0 or n_keys == 0:
        return keys.new_zeros(n_images, len(queries))
    scale = CUDA_TILES if keys.is_cuda else 1
    chunks = flat.split(scale * QUERY_TILE)
    step = max(1, scale * TILE // (n_keys * len(chunks[0])))
    bands = []
    for part in fill_padding(keys, key_mask).split(step):
        rows = part.reshape(-1, width)
        best = [(rows @ chunk.T).view(len(part), n_keys, -1).amax(1) for chunk in chunks]
        bands.append(torch.cat(best, 1))
    return segment_mean(torch.cat(bands), query_mask)


def mean_of_max_plain(keys: Tensor, key_mask: Tensor, queries: Tensor) -> Tensor:
    """Return the same for one caption by definition, (I,).

    Args:
        keys: (I, K, D).   key_mask: (I, K) bool.   queries: (T, D), real ones only.
    """
    if len(queries) == 0:
        return keys.new_zeros(len(keys))
    expanded = queries.unsqueeze(0).repeat(len(keys), 1, 1)  # (I, T, D)
    scores = torch.bmm(expanded, keys.transpose(1, 2))  # (I, T, K)
    scores = scores.masked_fill(~key_mask.unsqueeze(1), torch.finfo(scores.dtype).min)
    return scores.amax(2).mean(1).masked_fill(~key_mask.any(1), 0.0)
