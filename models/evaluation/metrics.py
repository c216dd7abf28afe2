"""Recall of image-text retrieval, with ties counted against the query.

The rank of a query is the number of *wrong* items that score at least as high as its best correct
item; 0 is best. A model that gives every pair the same score therefore has a recall of 0, not 100.
(Ranks from a reversed ``argsort`` break ties by position: with the same constant matrix the last
image has perfect recall and the first has none. Without ties both methods agree.) Other correct
items of a query are ignored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import TrainingError, UsageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVELS = (1, 5, 10)
METRICS = (
    *(f"i2t_{name}" for name in ("r1", "r5", "r10", "medr", "meanr")),
    *(f"t2i_{name}" for name in ("r1", "r5", "r10", "medr", "meanr")),
    "rsum",
    "mr",
)
BLOCK = 1 << 22  # scores compared at a time; 5,000 x 25,000 at once would need a second matrix


@dataclass(frozen=True, eq=False, repr=False)
class Recall(Mapping[str, float]):
    """Metrics of one evaluation by name, and the rank of every query.

    Names: ``i2t_r1 i2t_r5 i2t_r10`` (percent), ``i2t_medr i2t_meanr`` (ranks from 1), the same
    with ``t2i_``, ``rsum`` (sum of the six recalls) and ``mr`` (their mean). Each is also an
    attribute: ``found["rsum"] == found.rsum``.

    Attributes:
        i2t_ranks: (queries,) rank from 0 of the best caption of each image that has captions.
        t2i_ranks: (n_captions,) rank from 0 of each caption's image.
        i2t_images: (queries,) position of the query image of each ``i2t_ranks``.
    """

    values_by_name: dict[str, float]
    i2t_ranks: Ints
    t2i_ranks: Ints
    i2t_images: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of_ranks(cls, i2t: Ints, t2i: Ints, images: Ints) -> Recall:
        """Summarise ranks (from 0) of both directions."""
        values: dict[str, float] = {}
        for name, ranks in (("i2t", i2t), ("t2i", t2i)):
            for level in LEVELS:
                values[f"{name}_r{level}"] = 100.0 * float(np.mean(ranks < level))
            values[f"{name}_medr"] = float(np.floor(np.median(ranks)) + 1)
            values[f"{name}_meanr"] = float(np.mean(ranks) + 1)
        return cls(_with_sums(values), i2t, t2i, images)

    def __getitem__(self, name: str) -> float:
        return self.values_by_name[name]

    def __getattr__(self, name: str) -> float:
        if name in METRICS:
            return self.values_by_name[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def __repr__(self) -> str:
        parts = [f"{name}={self[name]:.1f}" for name in METRICS]
        return f"Recall({', '.join(parts)})"


def recall(sims: Any, caption_to_image: Any) -> Recall:
    """Return the recall of a score matrix in both directions.

    >>> found = recall([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7]], [0, 0, 1])
    >>> found.i2t_r1, found.t2i_r1, found.rsum
    (100.0, 100.0, 600.0)

    Args:
        sims: (n_images, n_captions) scores, array or CPU tensor; larger = better match.
        caption_to_image: (n_captions,) position of each caption's image; any number of captions
            per image. Images without captions are retrieved from, but are no queries.

    Raises:
        UsageError: the shapes do not match, or there is no caption.
        TrainingError: a score is NaN, which cannot be ranked.
    """
    scores, owner = _checked(sims, caption_to_image)
    n_images, n_captions = scores.shape
    own = scores[owner, np.arange(n_captions)]  # score of each true pair
    best = np.full(n_images, -np.inf, scores.dtype)
    np.maximum.at(best, owner, own)
    n_own = np.bincount(owner, minlength=n_images)
    above_i2t = np.zeros(n_images, np.int64)
    above_t2i = np.zeros(n_captions, np.int64)
    rows = max(1, BLOCK // n_captions)
    for start in range(0, n_images, rows):
        part = scores[start : start + rows]
        if np.isnan(part).any():
            where = np.argwhere(np.isnan(part))[0]
            raise TrainingError(
                f"the score of image {start + where[0]} with caption {where[1]} is NaN. "
                "Train the model again."
            )
        above_i2t[start : start + rows] = (part >= best[start : start + rows, None]).sum(1)
        above_t2i += (part >= own).sum(0)
    # do not count the correct captions and the image itself
    above_i2t -= np.bincount(owner, weights=own >= best[owner], minlength=n_images).astype(np.int64)
    queries = np.flatnonzero(n_own)
    return Recall.of_ranks(above_i2t[queries], above_t2i - 1, queries)


def fold5(sims: Any, caption_to_image: Any, folds: int = 5) -> Recall:
    """Return the mean over ``folds`` equal groups of consecutive images (COCO 1K of 5K).

    Each fold is evaluated with its own images and captions only. Every metric, including medr,
    meanr and rsum, is the mean over the folds. Ranks are within the fold.

    Raises: UsageError: the number of images is not a multiple of ``folds``.
    """
    scores, owner = _checked(sims, caption_to_image)
    n_images = len(scores)
    if folds < 1 or n_images % folds:
        raise UsageError(
            f"{n_images} images cannot be divided into {folds} equal folds. Evaluate without folds."
        )
    size = n_images // folds
    t2i = np.zeros(len(owner), np.int64)
    parts: list[Recall] = []
    for start in range(0, n_images, size):
        captions = np.flatnonzero((owner >= start) & (owner < start + size))
        if not len(captions):
            raise UsageError(
                f"images {start} to {start + size - 1} have no captions. Evaluate without folds."
            )
        part = recall(scores[start : start + size][:, captions], owner[captions] - start)
        t2i[captions] = part.t2i_ranks
        parts.append(part)
    return Recall(
        {name: float(np.mean([part[name] for part in parts])) for name in METRICS},
        np.concatenate([part.i2t_ranks for part in parts]),
        t2i,
        np.concatenate([part.i2t_images + at * size for at, part in enumerate(parts)]),
    )


def chance(caption_to_image: Any, n_images: int, folds: int = 1) -> dict[str, float]:
    """Return the expected recalls, rsum and mr of a random order of all items, or of each fold.

    >>> round(chance([0, 0, 1, 1], 2)["t2i_r1"], 6)
    50.0
    """
    owner = np.asarray(caption_to_image)
    if folds > 1:
        size = n_images // folds
        parts = [chance(owner[owner // size == fold] - fold * size, size) for fold in range(folds)]
        return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    n_captions = len(owner)
    counts = np.bincount(owner, minlength=n_images)
    counts = counts[counts > 0]
    values: dict[str, float] = {}
    for level in LEVELS:
        missed = np.ones(len(counts))
        for drawn in range(min(level, n_captions)):
            missed *= np.clip((n_captions - counts - drawn) / (n_captions - drawn), 0, 1)
        values[f"i2t_r{level}"] = 100.0 * float(np.mean(1 - missed))
        values[f"t2i_r{level}"] = 100.0 * min(1.0, level / n_images)
    return _with_sums(values)


def bootstrap(
    found: Recall, caption_to_image: Any, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Return bootstrap confidence intervals of the recalls, rsum and mr.

    Images are resampled with all their captions, because captions of one image are not
    independent. The set of items that each query searches stays the same.

    Args:
        found: what ``recall`` or ``fold5`` returned for ``caption_to_image``.
        caption_to_image: (n_captions,) the same as there.
        samples: number of samples.   seed: of the samples.   level: confidence level.
    """
    curves = _recall_curves(found, caption_to_image, samples, seed)
    return {name: _interval(curve, level) for name, curve in curves.items()}


@dataclass(frozen=True)
class Difference:
    """A metric of one run minus that of another.

    Attributes:
        value: the difference.   low, high: ends of its bootstrap interval.
        p: two-sided; the share of samples that do not have the sign of the difference, twice.
    """

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    one: Recall | Sequence[Recall],
    other: Recall | Sequence[Recall],
    caption_to_image: Any,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Compare two runs on the same split: ``one`` minus ``other`` for the recalls, rsum and mr.

    Both runs are evaluated on the same samples of images, so that what is hard for both cancels:
    the interval is narrower than those of the runs alone suggest.

    Args:
        one, other: of two score matrices of the same images and captions; or of several each, such
            as those of several seeds, whose means are compared.
        caption_to_image, samples, seed, level: see ``bootstrap``.

    Raises: UsageError: the results are of different queries.
    """
    rows = [[row] if isinstance(row, Recall) else list(row) for row in (one, other)]
    return paired_bootstraps(rows, caption_to_image, samples, seed, level)[0, 1]


def paired_bootstraps(
    rows: Sequence[Sequence[Recall]],
    caption_to_image: Any,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Compare every two rows as ``paired_bootstrap`` does: (i, j), i < j, -> row i minus row j.

    Args:
        rows: the results of each row, one for each seed.
        caption_to_image, samples, seed, level: see ``bootstrap``.

    Raises: UsageError: the results are of different queries.
    """
    images = rows[0][0].i2t_images
    if not all(np.array_equal(images, found.i2t_images) for row in rows for found in row):
        raise UsageError("two results of different images cannot be compared in pairs.")
    means: list[dict[str, float]] = []
    curves: list[dict[str, Floats]] = []
    for row in rows:
        seeds = [_recall_curves(found, caption_to_image, samples, seed) for found in row]
        curves.append({name: np.mean([one[name] for one in seeds], axis=0) for name in seeds[0]})
        means.append({name: float(np.mean([one[name] for one in row])) for name in seeds[0]})
    return {
        (i, j): {
            name: _difference(means[i][name] - means[j][name], curve - curves[j][name], level)
            for name, curve in curves[i].items()
        }
        for i, j in itertools.combinations(range(len(rows)), 2)
    }


def _difference(value: float, curve: Floats, level: float) -> Difference:
    against = min(float(np.mean(curve <= 0)), float(np.mean(curve >= 0)))
    return Difference(value, *_interval(curve, level), min(1.0, 2 * against))


def _interval(curve: Floats, level: float) -> tuple[float, float]:
    low, high = np.percentile(curve, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def image_curves(values: Floats, images: Ints, samples: int, seed: int) -> Floats:
    """Return means over queries in bootstrap samples of images: (samples, metrics).

    Args:
        values: (queries, metrics).   images: (queries,) the image that each query belongs to.
        samples: number of samples.   seed: of the samples.
    """
    _, place = np.unique(images, return_inverse=True)
    count = int(place.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), samples)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, place, values)
    means: Floats = (draws @ sums) / (draws @ np.bincount(place, minlength=count))[:, None]
    return means


def _recall_curves(
    found: Recall, caption_to_image: Any, samples: int, seed: int
) -> dict[str, Floats]:
    """Return the recalls, rsum and mr in bootstrap samples of images."""
    owner = np.asarray(caption_to_image, np.int64)
    images = found.i2t_images
    place = np.full(int(owner.max()) + 1, -1, np.int64)
    place[images] = np.arange(len(images))
    of_caption = place[owner]
    captions = np.bincount(of_caption, minlength=len(images))
    draws = np.random.default_rng(seed).multinomial(
        len(images), np.full(len(images), 1 / len(images)), samples
    )  # (samples, images): how often each image was drawn
    curves: dict[str, Floats] = {}
    for top in LEVELS:
        hits = (found.i2t_ranks < top).astype(np.float64)
        curves[f"i2t_r{top}"] = 100.0 * (draws @ hits) / len(images)
        found_by = np.bincount(of_caption, weights=found.t2i_ranks < top, minlength=len(images))
        curves[f"t2i_r{top}"] = 100.0 * (draws @ found_by) / (draws @ captions)
    curves["rsum"] = np.sum(list(curves.values()), axis=0)
    curves["mr"] = curves["rsum"] / 6
    return curves


def _with_sums(values: dict[str, float]) -> dict[str, float]:
    """Add the sum of the six recalls and their mean. GSMN Eq. (12), CFSGR Eq. (19)."""
    six: Sequence[float] = [values[f"{d}_r{k}"] for d in ("i2t", "t2i") for k in LEVELS]
    return {**values, "rsum": float(sum(six)), "mr": float(sum(six)) / 6}


def _checked(sims: Any, caption_to_image: Any) -> tuple[npt.NDArray[Any], Ints]:
    """Return both as arrays after checking their shapes."""
    scores = np.asarray(sims)
    owner = np.asarray(caption_to_image).astype(np.int64)
    if scores.ndim != 2 or owner.ndim != 1 or scores.shape[1] != len(owner):
        raise UsageError(
            f"scores have shape {scores.shape} and caption_to_image has shape {owner.shape}; "
            "expected (n_images, n_captions) and (n_captions,)."
        )
    if not len(owner):
        raise UsageError("there are no captions to evaluate.")
    if owner.min() < 0 or owner.max() >= len(scores):
        raise UsageError(
            f"caption_to_image contains {owner.max() if owner.min() >= 0 else owner.min()}, "
            f"but there are {len(scores)} images."
        )
    return scores, owner
