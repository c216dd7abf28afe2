"""Agreement of scores with human ratings: Kendall's tau-b and tau-c, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import TrainingError, UsageError

Floats = npt.NDArray[np.float64]

BLOCK = 1 << 24  # pairs of ratings compared at a time


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of scores and ratings, in [-1, 1].

    Attributes:
        tau_b: corrected for ties on both sides.   tau_c: for scales of different lengths.
        tau_b_interval, tau_c_interval: 95 % bootstrap intervals over images; None without.
        ratings, images: how many there are.
    """

    tau_b: float
    tau_c: float
    ratings: int
    images: int
    tau_b_interval: tuple[float, float] | None = None
    tau_c_interval: tuple[float, float] | None = None


def kendall(
    scores: Any, ratings: Any, images: Any = None, *, samples: int = 0, seed: int = 0
) -> Agreement:
    """Return Kendall's tau of scores and ratings.

    With P concordant and Q discordant pairs of the n observations, X pairs tied in the scores and Y
    tied in the ratings, of n0 = n (n - 1) / 2 pairs::

        tau-b = (P - Q) / sqrt((n0 - X) (n0 - Y))
        tau-c = 2 (P - Q) m / (n^2 (m - 1)),  m = the smaller number of distinct values

    All pairs are compared once and summed by image; a bootstrap sample of images then needs only
    those sums. m is that of all observations in every sample.

    >>> kendall([1, 2, 3, 4], [1, 1, 2, 2]).tau_c
    1.0

    Args:
        scores, ratings: (n,) numbers.
        images: (n,) image of each observation; None: each is of its own.
        samples: bootstrap samples of images; 0: no intervals.   seed: of the samples.

    Raises:
        UsageError: the lengths differ, or all ratings are equal.
        TrainingError: a score is not finite.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    if x.shape != y.shape or x.ndim != 1 or (images is not None and len(images) != len(x)):
        raise UsageError("scores, ratings and images must have one entry per observation.")
    if not np.isfinite(x).all():
        raise TrainingError("a score is not finite. Train the model again.")
    if len(np.unique(y)) < 2:
        raise UsageError("all ratings are equal, so nothing can agree with them. Check the file.")
    groups = np.arange(len(x)) if images is None else np.unique(images, return_inverse=True)[1]
    order = np.argsort(groups, kind="stable")
    x, y, groups = x[order], y[order], groups[order]
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    difference, tied_x, tied_y = _by_image(x, y, starts)
    sizes = np.diff(starts, append=len(x)).astype(np.float64)
    values = min(len(np.unique(x)), len(np.unique(y)))

    def taus(weights: Floats) -> tuple[Floats, Floats]:
        """Return tau-b and tau-c of (S, images) samples, given how often each image is drawn."""
        n = weights @ sizes
        total = _quadratic(weights, difference) / 2
        # an observation is tied with itself in these sums
        free_x, free_y = ((n * n - _quadratic(weights, tied)) / 2 for tied in (tied_x, tied_y))
        with np.errstate(invalid="ignore", divide="ignore"):
            b = np.where(free_x * free_y > 0, total / np.sqrt(free_x * free_y), 0.0)
            c = 2 * total * values / (n * n * (values - 1)) if values > 1 else np.zeros_like(n)
        return b, c

    one = np.ones((1, len(starts)))
    b, c = (float(values_of[0]) for values_of in taus(one))
    if not samples:
        return Agreement(b, c, len(x), len(starts))
    draws = np.random.default_rng(seed).multinomial(
        len(starts), np.full(len(starts), 1 / len(starts)), samples
    )
    intervals = [
        tuple(float(end) for end in np.percentile(curve, (2.5, 97.5)))
        for curve in taus(draws.astype(np.float64))
    ]
    return Agreement(b, c, len(x), len(starts), *intervals)  # type: ignore[arg-type]


def _quadratic(weights: Floats, matrix: Floats) -> Floats:
    """Return w^T M w of each row of weights, (S,)."""
    product: Floats = np.einsum("si,si->s", weights @ matrix, weights)
    return product


def _by_image(x: Floats, y: Floats, starts: npt.NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Return sums over the ordered pairs of two images' observations, each (images, images).

    Concordant minus discordant pairs, pairs tied in x, pairs tied in y. Observations of an image
    are adjacent, from ``starts`` on.
    """
    n, count = len(x), len(starts)
    found = [np.zeros((count, count)) for _ in range(3)]
    rows = max(1, BLOCK // n)
    owner = np.searchsorted(starts, np.arange(n), side="right") - 1
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        above = np.sign(x[part, None] - x).astype(np.int8)
        higher = np.sign(y[part, None] - y).astype(np.int8)
        for at, pairs in enumerate((above * higher, above == 0, higher == 0)):
            across = np.add.reduceat(pairs, starts, axis=1, dtype=np.float64)
            np.add.at(found[at], owner[part], across)
    return found[0], found[1], found[2]
