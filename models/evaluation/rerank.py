"""Re-ranking of captions for an image by looking back from each caption (RACG section III-F).

A caption that scores well for an image, but whose own image list puts that image far down, is
probably a generic sentence. The first ``top`` captions of each image are put in the order of the
rank that the image has in *their* lists; equal ranks keep the first order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import UsageError

__all__ = ["rerank"]


def rerank(sims: Any, top: int = 15) -> npt.NDArray[np.float32]:
    """Return scores that re-rank the captions of each image. RACG Eq. (24)-(27).

    Use them for image -> text only.

    Args:
        sims: (n_images, n_captions) scores.
        top: captions per image that change places; the paper gives no number.

    Returns:
        (n_images, n_captions) float32: minus the place of each caption in the image's new order,
        so that every row has distinct values. Ties of the first order go to the lower column.

    Raises: UsageError: ``top`` below 1.
    """
    scores = np.asarray(sims)
    if top < 1:
        raise UsageError(f"re-ranking needs at least 1 caption, got top={top}.")
    order = np.argsort(-scores, axis=1, kind="stable")  # (n_images, n_captions), best first
    first = order[:, :top]
    back = np.empty(first.shape, np.int64)  # rank of the image in each caption's list
    for place in range(first.shape[1]):
        columns = scores[:, first[:, place]]  # (n_images, n_images): column j asks for image j
        back[:, place] = (columns > np.diagonal(columns)).sum(0)
    again = np.argsort(back, axis=1, kind="stable")
    order[:, :top] = np.take_along_axis(first, again, axis=1)
    places = np.empty(scores.shape, np.float32)
    ranks = np.broadcast_to(-np.arange(scores.shape[1], dtype=np.float32), scores.shape)
    np.put_along_axis(places, order, ranks, axis=1)
    return places
