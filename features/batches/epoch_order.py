"""The order of rows in an epoch, a function of seed, epoch, rank and step alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.errors import UnknownName, UsageError

ORDERS = ("random", "block", "sequential")
BLOCK_IMAGES = 64
POOL_BLOCKS = 256

Index = npt.NDArray[np.int64]


def epoch_order(
    rows: Index, image_rows: Index, *, order: str = "random", seed: int = 0, epoch: int = 0
) -> Index:
    """Return the rows of an epoch in the order in which they are visited.

    Args:
        rows: rows to visit, ascending.
        image_rows: image of each of them.
        order: ``random``: a full permutation. ``block``: blocks of 64 neighbouring images are
            permuted, then rows are mixed within pools of 256 blocks; nearly random, and a pool's
            pages are read together, for data that is larger than memory or remote.
            ``sequential``: the order of the store.
        seed, epoch: determine the permutation.

    Raises: UnknownName: no such order.
    """
    random = np.random.default_rng([seed, epoch])
    if order == "sequential":
        return rows
    if order == "random":
        return rows[random.permutation(len(rows))]
    if order != "block":
        raise UnknownName.of("order", order, ORDERS)
    blocks, block_of = np.unique(image_rows // BLOCK_IMAGES, return_inverse=True)
    place = random.permutation(len(blocks))  # block -> its place in the epoch
    pool = place[block_of] // POOL_BLOCKS
    return rows[np.lexsort((random.permutation(len(rows)), pool))]


def rank_slice(rows: Index, rank: int, world: int) -> Index:
    """Return every ``world``-th row from ``rank`` on, so that each row belongs to one rank.

    The last ranks may get one row less, or none if there are fewer rows than ranks.

    >>> [rank_slice(np.arange(7), rank, 3).tolist() for rank in range(3)]
    [[0, 3, 6], [1, 4], [2, 5]]

    Raises: UsageError: not 0 <= rank < world.
    """
    if world < 1 or not 0 <= rank < world:
        raise UsageError(f"rank {rank} of {world} ranks: rank must be in 0 .. world - 1.")
    return rows[rank::world]
