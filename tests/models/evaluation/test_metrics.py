"""Metrics compared with brute force, with official code and with their definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.errors import TrainingError, UsageError
from models.evaluation.metrics import METRICS, bootstrap, chance, fold5, recall

PARITY = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "parity"


def brute(sims, owner):
    """Ranks by sorting every list with all wrong items of equal score put first."""
    n_images, n_captions = sims.shape
    i2t = []
    for image in range(n_images):
        if image not in owner:
            continue
        items = [(-sims[image, c], owner[c] == image, c) for c in range(n_captions)]
        order = [right for _, right, _ in sorted(items)]
        i2t.append(sum(not right for right in order[: order.index(True)]))
    t2i = []
    for caption in range(n_captions):
        items = [(-sims[i, caption], owner[caption] == i, i) for i in range(n_images)]
        t2i.append([right for _, right, _ in sorted(items)].index(True))
    values = {}
    for name, ranks in (("i2t", i2t), ("t2i", t2i)):
        for level in (1, 5, 10):
            values[f"{name}_r{level}"] = 100 * sum(r < level for r in ranks) / len(ranks)
        middle = sorted(ranks)
        half = len(ranks) // 2
        median = middle[half] if len(ranks) % 2 else (middle[half - 1] + middle[half]) / 2
        values[f"{name}_medr"] = int(median) + 1
        values[f"{name}_meanr"] = sum(ranks) / len(ranks) + 1
    values["rsum"] = sum(values[f"{d}_r{k}"] for d in ("i2t", "t2i") for k in (1, 5, 10))
    values["mr"] = values["rsum"] / 6
    return i2t, t2i, values


def random_case(seed):
    """Make scores with ties, duplicated rows and columns, and 0 to 7 captions per image."""
    rng = np.random.default_rng(seed)
    n_images = int(rng.integers(1, 14))
    counts = rng.integers(0 if seed % 4 == 0 else 1, 8, n_images)
    counts[0] = max(1, counts[0])
    owner = np.repeat(np.arange(n_images), counts)
    rng.shuffle(owner)
    sims = rng.normal(size=(n_images, len(owner))).astype(np.float32)
    if seed % 2:
        sims = np.round(sims)  # many ties
    if seed % 3 == 0 and n_images > 2:
        sims[-1] = sims[0]
        sims[:, -1] = sims[:, 0]
    return sims, owner


@pytest.mark.parametrize("block", range(4))
def test_ranks_and_numbers_equal_brute_force(block):
    for seed in range(block * 50, block * 50 + 50):
        sims, owner = random_case(seed)
        found = recall(sims, owner)
        i2t, t2i, values = brute(sims, owner)
        assert found.i2t_ranks.tolist() == i2t, seed
        assert found.t2i_ranks.tolist() == t2i, seed
        assert set(found) == set(METRICS) == set(values)
        for name in METRICS:
            assert found[name] == pytest.approx(values[name], abs=1e-9), (seed, name)


def test_small_blocks_give_the_same_ranks(monkeypatch):
    sims, owner = random_case(7)
    whole = recall(sims, owner)
    monkeypatch.setattr("models.evaluation.metrics.BLOCK", 1)
    parts = recall(sims, owner)
    assert parts.i2t_ranks.tolist() == whole.i2t_ranks.tolist()
    assert parts.t2i_ranks.tolist() == whole.t2i_ranks.tolist()


def test_official_code_agrees_where_there_are_no_ties():
    if not (PARITY / "eval_official.npz").exists():
        pytest.skip("development data is not beside the checkout")
    data = np.load(PARITY / "eval_official.npz")
    owner = np.repeat(np.arange(60), 5)
    found = recall(data["in/sims_60x300"], owner)
    assert found.i2t_ranks.tolist() == data["out/i2t_ranks"].tolist()
    assert found.t2i_ranks.tolist() == data["out/t2i_ranks"].tolist()
    both = recall((data["in/sims_60x300"] + data["in/sims2_60x300"]) / 2, owner)
    names = ("r1", "r5", "r10", "medr", "meanr")
    for direction in ("i2t", "t2i"):
        one = [found[f"{direction}_{name}"] for name in names]
        np.testing.assert_allclose(one, data[f"out/{direction}_metrics"], rtol=1e-12)
        mean = [both[f"{direction}_{name}"] for name in names]
        np.testing.assert_allclose(mean, data[f"out/ens_{direction}"], rtol=1e-12)
    # ties are where we differ on purpose: equal scores are never a success
    ties = recall(data["in/sims_ties_4x20"], np.repeat(np.arange(4), 5))
    assert data["out/ties_i2t_ranks"].tolist() == [15, 10, 5, 0]
    assert ties.i2t_ranks.tolist() == [15, 15, 15, 15]
    assert ties.t2i_ranks.tolist() == [3] * 20


def test_constant_scores_have_zero_recall():
    found = recall(np.zeros((20, 100)), np.repeat(np.arange(20), 5))
    assert found.rsum == 0
    assert found.i2t_medr == 96
    assert found.t2i_medr == 20


def test_recall_is_invariant_to_monotone_changes_and_order():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(30), 3)
    sims = rng.normal(size=(30, 90)) + 2 * (owner == np.arange(30)[:, None])
    found = recall(sims, owner)
    assert dict(recall(np.exp(sims) * 7 + 1, owner)) == dict(found)
    images, captions = rng.permutation(30), rng.permutation(90)
    place = np.argsort(images)
    assert dict(recall(sims[images][:, captions], place[owner[captions]])) == dict(found)


def test_fold5_is_the_mean_of_five_single_evaluations():
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(50), rng.integers(1, 6, 50))
    rng.shuffle(owner)  # captions of a fold need not stand together
    sims = rng.normal(size=(50, len(owner))) + 1.5 * (owner == np.arange(50)[:, None])
    folded = fold5(sims, owner)
    singles = []
    for fold in range(5):
        mine = np.isin(owner, np.arange(fold * 10, fold * 10 + 10))
        singles.append(recall(sims[fold * 10 : fold * 10 + 10][:, mine], owner[mine] - fold * 10))
        assert folded.t2i_ranks[mine].tolist() == singles[-1].t2i_ranks.tolist()
    for name in METRICS:
        assert folded[name] == pytest.approx(np.mean([single[name] for single in singles]))
    assert folded.rsum == pytest.approx(sum(folded[n] for n in METRICS if n[4:] in LEVEL_NAMES))
    assert folded.i2t_ranks.tolist() == np.concatenate([s.i2t_ranks for s in singles]).tolist()


LEVEL_NAMES = ("r1", "r5", "r10")


def test_fold5_refuses_unequal_folds():
    with pytest.raises(UsageError, match="7 images cannot be divided into 5 equal folds"):
        fold5(np.zeros((7, 7)), np.arange(7))


def test_chance_equals_the_mean_of_random_scores():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), rng.integers(1, 8, 12))
    runs = [recall(rng.random((12, len(owner))), owner) for _ in range(3000)]
    for name, expected in chance(owner, 12).items():
        assert np.mean([run[name] for run in runs]) == pytest.approx(expected, rel=0.06), name


def test_bootstrap_covers_the_estimate_and_shrinks_with_more_images():
    rng = np.random.default_rng(1)
    widths = []
    for n in (40, 640):
        owner = np.repeat(np.arange(n), rng.integers(1, 6, n))
        sims = rng.normal(size=(n, len(owner))) + 2 * (owner == np.arange(n)[:, None])
        found = recall(sims, owner)
        spread = bootstrap(found, owner, samples=400, seed=2)
        for name, (low, high) in spread.items():
            assert low <= found[name] <= high, name
        widths.append(spread["t2i_r1"][1] - spread["t2i_r1"][0])
        assert spread == bootstrap(found, owner, samples=400, seed=2)
    assert widths[1] < 0.5 * widths[0]


def test_bootstrap_equals_a_loop_over_samples():
    owner = np.array([0, 0, 1, 2, 2, 2])
    sims = np.array([[3.0, 1, 2, 0, 0, 5], [1, 2, 1, 4, 0, 0], [0, 0, 0, 2, 3, 1]])
    found = recall(sims, owner)
    rng = np.random.default_rng(9)
    draws = rng.multinomial(3, [1 / 3] * 3, 200)
    i2t, t2i = [], []
    for draw in draws:
        images = np.repeat(np.arange(3), draw)
        i2t.append(100 * np.mean([found.i2t_ranks[i] < 1 for i in images]))
        captions = [c for i in images for c in np.flatnonzero(owner == i)]
        t2i.append(100 * np.mean([found.t2i_ranks[c] < 1 for c in captions]))
    spread = bootstrap(found, owner, samples=200, seed=9)
    assert spread["i2t_r1"] == pytest.approx(tuple(np.percentile(i2t, [2.5, 97.5])))
    assert spread["t2i_r1"] == pytest.approx(tuple(np.percentile(t2i, [2.5, 97.5])))


def test_images_without_captions_are_searched_but_are_no_queries():
    sims = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0]])
    found = recall(sims, [0, 2])
    assert found.i2t_images.tolist() == [0, 2]
    assert found.t2i_ranks.tolist() == [1, 1]
    spread = bootstrap(found, [0, 2], samples=20)
    assert spread["i2t_r1"] == (100, 100)


@pytest.mark.parametrize(
    ("sims", "owner", "words"),
    [
        (np.zeros((2, 3)), [0, 1], "expected .n_images, n_captions"),
        (np.zeros(3), [0, 1, 1], "expected .n_images, n_captions"),
        (np.zeros((2, 0)), [], "no caption"),
        (np.zeros((2, 2)), [0, 2], "caption_to_image contains 2"),
        (np.zeros((2, 2)), [0, -1], "caption_to_image contains -1"),
    ],
)
def test_wrong_shapes_are_named(sims, owner, words):
    with pytest.raises(UsageError, match=words):
        recall(sims, owner)


def test_nan_is_refused_with_its_position():
    sims = np.zeros((4, 4))
    sims[2, 3] = np.nan
    with pytest.raises(TrainingError, match="image 2 with caption 3"):
        recall(sims, np.arange(4))


def test_torch_tensors_are_accepted():
    import torch

    found = recall(torch.eye(6), torch.arange(6))
    assert found.rsum == 600
    assert found.mr == 100
    assert "rsum=600.0" in repr(found)
    with pytest.raises(AttributeError, match="r_sum"):
        _ = found.r_sum
