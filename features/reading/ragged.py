"""Turn ragged rows (offsets and values) into flat indices and padded arrays, vectorised."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


def flat_rows(offsets: npt.NDArray[Any], rows: npt.NDArray[Any]) -> tuple[Index, Index, Index]:
    """Return the positions of the values of some ragged rows.

    Args:
        offsets: (n + 1,) start of each row.
        rows: (b,) requested rows.

    Returns:
        values: (total,) index of every value, row by row.
        owner: (total,) the row it belongs to, 0 .. b - 1.
        place: (total,) its position within the row.

    >>> [part.tolist() for part in flat_rows(np.array([0, 2, 2, 5]), np.array([2, 0]))]
    [[2, 3, 4, 0, 1], [0, 0, 0, 1, 1], [0, 1, 2, 0, 1]]
    """
    starts = offsets[rows].astype(np.int64)
    lengths = offsets[np.asarray(rows) + 1] - starts
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return starts[owner] + place, owner, place


def pad(
    values: npt.NDArray[Any], owner: Index, place: Index, shape: tuple[int, int], fill: int = 0
) -> Index:
    """Return a padded int64 array with ``values`` at (owner, place) and ``fill`` elsewhere."""
    out = np.full(shape[0] * shape[1], fill, np.int64)
    out[owner * shape[1] + place] = values  # one index is twice as fast as two
    return out.reshape(shape)
