"""Re-ranking of captions for an image by the rank of the image in each caption's list.

RACG section III-F: a caption that scores high for an image, but has that image far down its own
list, is probably generic. The first ``top`` captions of each image are sorted by the rank of the
image in *their* lists; equal ranks keep the first order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import UsageError

TOP = 15  # captions per image to re-rank; the paper gives no number


def rerank(sims: Any, top: int = TOP) -> npt.NDArray[np.float32]:
    """Return scores that re-rank the captions of each image. RACG Eq. (24)-(27).

    Use them for image -> text only.

    Args:
        sims: (n_images, n_captions) scores.
        top: captions per image to re-rank; the paper gives no number.

    Returns:
        (n_images, n_captions) float32: minus the position of each caption in the image's new order,
        so that each row has distinct values. Ties in the first order go to the lower column.

    Raises: UsageError: ``top`` below 1.
    """
    scores = np.asarray(sims)
    if top < 1:
        raise UsageError(f"top is {top}, but re-ranking needs at least 1 caption.")
    order = np.argsort(-scores, axis=1, kind="stable")  # (n_images, n_captions), best first
    first = order[:, :top]
    back = np.empty(first.shape, np.int64)  # rank of the image in each caption's list
    for place in range(first.shape[1]):
        columns = scores[:, first[:, place]]  # (n_images, n_images): column j for image j
        back[:, place] = (columns > np.diagonal(columns)).sum(0)
    again = np.argsort(back, axis=1, kind="stable")
    order[:, :top] = np.take_along_axis(first, again, axis=1)
    places = np.empty(scores.shape, np.float32)
    ranks = np.broadcast_to(-np.arange(scores.shape[1], dtype=np.float32), scores.shape)
    np.put_along_axis(places, order, ranks, axis=1)
    return places


def rerank_folds(
    sims: Any, caption_to_image: Any, top: int = TOP, folds: int = 5
) -> npt.NDArray[np.float32]:
    """Re-rank inside each fold of consecutive images; scores outside the folds are 0."""
    scores, owner = np.asarray(sims), np.asarray(caption_to_image)
    again = np.zeros(scores.shape, np.float32)
    size = len(scores) // folds
    for start in range(0, size * folds, size):
        captions = np.flatnonzero((owner >= start) & (owner < start + size))
        fold = slice(start, start + size)
        again[fold, captions] = rerank(scores[fold][:, captions], top)
    return again
