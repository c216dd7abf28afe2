"""Kendall's tau against a count over all pairs, written independently, and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from features.errors import TrainingError, UsageError
from models.evaluation import kendall


def counted(x, y):
    """tau-b and tau-c by comparing every pair once."""
    agree = differ = tied_x = tied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = x[i] - x[j], y[i] - y[j]
        agree += a * b > 0
        differ += a * b < 0
        tied_x += a == 0
        tied_y += b == 0
    n = len(x)
    pairs = n * (n - 1) / 2
    m = min(len(set(x)), len(set(y)))
    free = math.sqrt((pairs - tied_x) * (pairs - tied_y))
    return (agree - differ) / free, 2 * (agree - differ) * m / (n * n * (m - 1))


@pytest.fixture(params=[(40, 4, 4), (60, 60, 4), (30, 3, 20)])
def sample(request):
    n, values_x, values_y = request.param
    random = np.random.default_rng(n)
    x = random.integers(0, values_x, n) / 7
    y = np.round(x * 3 + random.normal(size=n) * values_y / 4)
    return x.tolist(), y.tolist(), random.integers(0, 9, n)


def test_tau_equals_a_count_over_all_pairs(sample):
    x, y, images = sample
    found = kendall(x, y, images)
    assert (found.tau_b, found.tau_c) == pytest.approx(counted(x, y), abs=1e-12)
    assert (found.ratings, found.images) == (len(x), len(set(images.tolist())))
    assert found.tau_b_interval is None


def test_tau_equals_that_of_scipy(sample):
    stats = pytest.importorskip("scipy.stats")
    x, y, images = sample
    found = kendall(x, y, images)
    assert found.tau_b == pytest.approx(stats.kendalltau(x, y, variant="b")[0], abs=1e-12)
    assert found.tau_c == pytest.approx(stats.kendalltau(x, y, variant="c")[0], abs=1e-12)


def test_known_values():
    assert kendall([1, 2, 3], [1, 2, 3]).tau_b == 1.0
    assert kendall([3, 2, 1], [1, 2, 3]).tau_c == -1.0
    assert kendall([5, 5, 5], [1, 2, 3]) == kendall([0, 0, 0], [1, 2, 3])
    assert kendall([5, 5, 5], [1, 2, 3]).tau_b == 0.0  # a constant score agrees with nothing


def test_intervals_are_those_of_resampled_images(monkeypatch, sample):
    x, y, images = (np.asarray(part) for part in sample)
    seed, samples = 3, 40
    found = kendall(x, y, images, samples=samples, seed=seed)
    names = np.unique(images)
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), samples
    )
    taus_b, taus_c = [], []
    m = min(len(set(x)), len(set(y)))
    for times in draws:
        rows = np.concatenate(
            [np.tile(np.flatnonzero(images == n), t) for n, t in zip(names, times, strict=True)]
        )
        own = min(len(set(x[rows])), len(set(y[rows])))
        b, c = counted(x[rows].tolist(), y[rows].tolist())
        taus_b.append(b)
        taus_c.append(c * (own - 1) / own * m / (m - 1))  # m is that of all observations
    assert found.tau_b_interval == pytest.approx(np.percentile(taus_b, (2.5, 97.5)), abs=1e-9)
    assert found.tau_c_interval == pytest.approx(np.percentile(taus_c, (2.5, 97.5)), abs=1e-9)
    assert found.tau_b_interval[0] < found.tau_b < found.tau_b_interval[1]


def test_blocks_do_not_change_the_result(monkeypatch, sample):
    x, y, images = sample
    whole = kendall(x, y, images, samples=10)
    monkeypatch.setattr("models.evaluation.agreement.BLOCK", 7 * len(x))
    assert kendall(x, y, images, samples=10) == whole


def test_errors():
    with pytest.raises(UsageError, match="one entry per observation"):
        kendall([1, 2], [1, 2, 3])
    with pytest.raises(UsageError, match="all ratings are equal"):
        kendall([1, 2], [3, 3])
    with pytest.raises(TrainingError, match="not finite"):
        kendall([1, float("nan")], [1, 2])
