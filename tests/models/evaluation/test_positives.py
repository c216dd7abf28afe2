"""Several right answers per query: ECCV Caption's metrics, its files, tables of pairs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.errors import InputError, MissingInput, UsageError
from models.evaluate import app
from models.evaluation.metrics import bootstrap, paired_bootstrap, recall
from models.evaluation.positives import (
    Names,
    Positives,
    describe,
    evaluate_positives,
    query_metrics,
    ranks_of,
    read_positives,
)

# what eccv_caption 0.1.0 (compute_eccv_metrics, compute_r_at_k) computes for ``example``
ECCV_CAPTION = {
    "i2t_r1": 0.4,
    "i2t_r5": 0.65,
    "i2t_r10": 0.8,
    "i2t_rprecision": 0.19246753246753245,
    "i2t_map_at_r": 0.09624382859204286,
    "t2i_r1": 0.2,
    "t2i_r5": 0.725,
    "t2i_r10": 0.85,
    "t2i_rprecision": 0.17180555555555554,
    "t2i_map_at_r": 0.11200231481481482,
}


@pytest.fixture(scope="module")
def example():
    """Scores, owners and positives of some of the queries."""
    rng = np.random.default_rng(20)
    n, c = 40, 120
    owner = np.repeat(np.arange(n), 3)
    own = owner == np.arange(n)[:, None]
    sims = rng.normal(size=(n, c)) + 1.2 * own
    pairs = own | (rng.random((n, c)) < 0.06)
    answers = {
        "i2t": {i: np.flatnonzero(pairs[i]) for i in range(0, n, 2)},
        "t2i": {j: np.flatnonzero(pairs[:, j]) for j in range(1, c, 3)},
    }
    return sims, owner, Positives("eccv", answers)


def test_numbers_are_those_of_the_package_eccv_caption(example):
    found = evaluate_positives(*example)
    assert {key: value / 100 for key, value in found.values.items()} == pytest.approx(ECCV_CAPTION)


def test_the_package_itself_computes_the_same(example):
    metrics = pytest.importorskip("eccv_caption._metrics", reason="optional: eccv_caption")
    sims, owner, positives = example
    found = evaluate_positives(sims, owner, positives).values
    for way, scores in (("i2t", sims), ("t2i", sims.T)):
        ranking = {at: np.argsort(-row).tolist() for at, row in enumerate(scores)}
        right = {at: items.tolist() for at, items in positives.answers[way].items()}
        for key, value in metrics.compute_eccv_metrics(ranking, right).items():
            assert found[f"{way}_{key.removeprefix('eccv_')}"] == pytest.approx(100 * value)


def test_metrics_by_brute_force():
    rng = np.random.default_rng(3)
    for _ in range(50):
        scores = rng.permutation(30).astype(float)
        right = rng.choice(30, rng.integers(1, 9), replace=False)
        order = np.argsort(-scores).tolist()
        hits = [item in set(right.tolist()) for item in order]
        r = len(right)
        precisions = [sum(hits[: k + 1]) / (k + 1) * hits[k] for k in range(r)]
        wanted = [float(any(hits[:k])) for k in (1, 5, 10)]
        ranks = ranks_of(scores, right)
        assert ranks.tolist() == [k + 1 for k, hit in enumerate(hits) if hit]
        assert query_metrics(ranks, r) == pytest.approx(
            [*wanted, sum(hits[:r]) / r, np.mean(precisions)]
        )


def test_equal_scores_count_against_the_query():
    right = np.array([1, 4])
    assert ranks_of(np.zeros(6), right).tolist() == [5, 6]
    assert ranks_of(np.array([0.0, 1, 1, 0, 0, 0]), right).tolist() == [2, 6]
    assert query_metrics(np.array([1, 3]), 2) == pytest.approx((1, 1, 1, 0.5, 0.5))


def test_one_right_answer_makes_recalls_of_one():
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(15), 4)
    sims = rng.normal(size=(15, 60)) + 1.5 * (owner == np.arange(15)[:, None])
    answers = {
        "i2t": {i: np.flatnonzero(owner == i) for i in range(15)},
        "t2i": {j: owner[j : j + 1] for j in range(60)},
    }
    found = evaluate_positives(sims, owner, Positives("coco", answers), samples=200, seed=3)
    plain = recall(sims, owner)
    for key in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"):
        assert found.values[key] == pytest.approx(plain[key])
    assert found.values["t2i_map_at_r"] == found.values["t2i_rprecision"] == found.values["t2i_r1"]
    spread = bootstrap(plain, owner, samples=200, seed=3)
    for key in ("i2t_r1", "t2i_r5"):  # the same samples of images
        assert found.intervals[key] == pytest.approx(spread[key])


def test_scores_of_another_split_are_refused(example):
    sims, owner, positives = example
    with pytest.raises(UsageError, match=r"'eccv' are of another split.*\(20, 120\)"):
        evaluate_positives(sims[:20], owner, positives)


# Paired samples


def test_paired_samples_cancel_what_is_hard_for_both():
    rng = np.random.default_rng(2)
    owner = np.repeat(np.arange(200), 5)
    base = rng.normal(size=(200, 1000)) + 2.5 * (owner == np.arange(200)[:, None])
    better = base + 0.2 * (owner == np.arange(200)[:, None])
    one, other = recall(better, owner), recall(base, owner)
    found = paired_bootstrap(one, other, owner, samples=500, seed=1)
    alone = [bootstrap(run, owner, samples=500, seed=1)["rsum"] for run in (one, other)]
    apart = sum((high - low) ** 2 for low, high in alone) ** 0.5  # of two independent samples
    assert found["rsum"].high - found["rsum"].low < 0.5 * apart
    for name, difference in found.items():
        assert difference.value == pytest.approx(one[name] - other[name])
        assert difference.low <= difference.value <= difference.high
    assert found["rsum"].low > 0
    assert found["rsum"].p == 0
    same = paired_bootstrap(one, one, owner, samples=100)
    assert {(d.value, d.low, d.high, d.p) for d in same.values()} == {(0.0, 0.0, 0.0, 1.0)}
    back = paired_bootstrap(other, one, owner, samples=500, seed=1)["rsum"]
    assert back.value == -found["rsum"].value
    assert (back.low, back.high) == pytest.approx((-found["rsum"].high, -found["rsum"].low))
    with pytest.raises(UsageError, match="different images"):
        paired_bootstrap(one, recall(base[:100, :500], owner[:500]), owner)


# Files


@pytest.fixture
def store(tiny_store):
    return tiny_store(images=24)


def ids(store, split="test"):
    images = store.column("image_id")[store.image_rows(split)].tolist()
    return images, store.column("caption_id")[store.caption_rows(split)].tolist()


def write_eccv(folder, store):
    """Write positives as eccv_caption has them: two captions of the next image are right, too."""
    images, captions = ids(store)
    owner = store.caption_image_rows("test")
    i2t, t2i = {}, {}
    for i, image in enumerate(images):
        right = [captions[j] for j in np.flatnonzero(owner == i)]
        right += [captions[j] for j in np.flatnonzero(owner == (i + 1) % len(images))[:2]]
        i2t[image] = [*right, "999999"]  # not in the split
        for caption in right:
            t2i.setdefault(caption, []).append(image)
    t2i["888"] = images[:1]
    (folder / "eccv_image_to_caption.json").write_text(json.dumps(i2t))
    (folder / "eccv_caption_to_image.json").write_text(json.dumps(t2i))
    return folder / "eccv"


def test_files_of_eccv_caption_are_read(store, tmp_path):
    found = read_positives(write_eccv(tmp_path, store), store, "test")
    images, captions = ids(store)
    assert found.name == "eccv"
    assert len(found.answers["i2t"]) == len(images)
    assert len(found.answers["t2i"]) == len(captions)
    assert all(len(right) == 7 for right in found.answers["i2t"].values())
    assert describe(found) == (
        f"eccv: {len(images)} images and {len(captions)} captions with positives; "
        f"1 queries and {len(images)} answers are not in the split"
    )


def test_few_answers_outside_the_split_count_as_never_found(store, tmp_path):
    """As in eccv_caption, whose files name two captions that COCO's test split does not have."""
    path = write_eccv(tmp_path, store)
    images, captions = ids(store)
    many = dict.fromkeys(images, captions[:-1])
    many[images[0]] = [*captions[1:], "999999"]
    (tmp_path / "eccv_image_to_caption.json").write_text(json.dumps(many))
    found = read_positives(path, store, "test")
    assert found.missing["i2t"][0] == 1
    assert describe(found).endswith("these answers count as never found")
    sims = np.zeros((len(images), len(captions)))
    sims[0, 1:] = 1  # all that are right are first
    numbers = evaluate_positives(sims, store.caption_image_rows("test"), found)
    total = len(captions)
    assert numbers.totals["i2t"][0] == total
    row = query_metrics(numbers.ranks["i2t"][0], total)
    assert row == pytest.approx((1, 1, 1, (total - 1) / total, (total - 1) / total))


def test_a_table_of_pairs_equals_the_two_files(store, tmp_path):
    wanted = read_positives(write_eccv(tmp_path, store), store, "test")
    images, captions = ids(store)
    lines = ["image,caption,agg_score"]
    lines += [
        f"{images[i]},{captions[j]},{score}"
        for i, right in wanted.answers["i2t"].items()
        for j, score in ((right[0], 2.9), *((j, 3.5) for j in right))
    ]
    (tmp_path / "cxc.csv").write_text("\n".join(lines) + "\n")
    found = read_positives(tmp_path / "cxc.csv", store, "test")
    assert found.name == "cxc"
    for way in ("i2t", "t2i"):
        assert found.answers[way].keys() == wanted.answers[way].keys()
        for query, right in found.answers[way].items():
            assert right.tolist() == wanted.answers[way][query].tolist()
    low = read_positives(tmp_path / "cxc.csv", store, "test", threshold=0)
    assert low.answers["i2t"][0].tolist() == found.answers["i2t"][0].tolist()


def test_coco_names_are_found_by_their_number():
    names = Names(["COCO_val2014_000000391895.jpg", "000000000042.jpg", "x_42a.jpg"], "images")
    assert [names.place(name) for name in ("391895", "42", "000000391895", "x_42a.jpg")] == [
        0,
        1,
        0,
        2,
    ]
    assert names.place("7") is None
    twice = Names(["a/12.jpg", "b/12.jpg"], "images")
    assert twice.place("a/12.jpg") == 0
    with pytest.raises(InputError, match="several images of the split end with the number 12"):
        twice.place("12")


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, MissingInput, "no such file of positives"),
        ("{", InputError, "is not JSON"),
        ("[1]", InputError, "one list for each query"),
        ('{"1": 2}', InputError, "one list for each query"),
        ('{"nowhere.jpg": ["x"]}', InputError, "has no image to caption pair of split 'test'"),
    ],
)
def test_files_that_cannot_be_used_are_named(store, tmp_path, content, error, says):
    path = write_eccv(tmp_path, store)
    file = tmp_path / "eccv_image_to_caption.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(error, match=says):
        read_positives(path, store, "test")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,text\na,b\n", r"has the columns \['image', 'text'\]"),
        ("", "has the columns"),
        ("image,caption,score\na,b,high\n", "line 2: score 'high' is not a number"),
    ],
)
def test_tables_that_cannot_be_used_are_named(store, tmp_path, text, says):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_positives(tmp_path / "pairs.csv", store, "test")


# The command


@pytest.fixture
def runs(store, tmp_path):
    from models.configuration.config import from_dict
    from models.train import train

    folders = []
    for seed in (0, 1):
        options = {"embed_dim": 16, "word_dim": 8}
        tree = {
            "model": {"name": "vse", "options": options},
            "data": {"store": str(store.path), "batch_size": 32},
            "run": {"folder": str(tmp_path / f"run{seed}"), "max_steps": 3, "seed": seed},
        }
        assert train(from_dict(tree)) == 0
        folders.append(tmp_path / f"run{seed}")
    return folders


def test_the_command_prints_and_writes_them(store, runs, tmp_path, capsys):
    import models
    from models.training.run import load_run

    path, out = write_eccv(tmp_path, store), tmp_path / "out.json"
    words = ["--store", str(store.path), "--json", str(out), "--bootstrap", "100"]
    code = app.call([*map(str, runs), *words, "--positives", str(path), "--paired"])
    assert code in (0, None)
    said = capsys.readouterr().out
    assert "eccv" in said
    assert "images and" in said
    assert "95 % interval of paired samples" in said
    document = json.loads(out.read_text())
    assert [set(row["positives"]) for row in document["rows"]] == [{"eccv"}] * 3
    (difference,) = document["differences"]
    assert difference["runs"] == [str(run) for run in runs]
    first, second = (row["metrics"]["rsum"] for row in document["rows"][:2])
    assert difference["metrics"]["rsum"]["value"] == pytest.approx(first - second)
    run = load_run(runs[0], store)
    sims = models.score_all(run.model, store, "test", run.codebook).numpy()
    positives = read_positives(path, store, "test")
    wanted = evaluate_positives(sims, store.caption_image_rows("test"), positives)
    assert document["rows"][0]["positives"]["eccv"]["metrics"] == pytest.approx(wanted.values)
    table = pq.read_table(runs[0] / "queries-test-eccv.parquet").to_pylist()
    images, captions = ids(store)
    assert [row["query"] for row in table] == [*images, *captions]
    assert table[0]["ranks"] == wanted.ranks["i2t"][0].tolist()
    mean = np.mean([row["map_at_r"] for row in table if row["direction"] == "t2i"])
    assert 100 * mean == pytest.approx(wanted.values["t2i_map_at_r"])


def test_pairs_need_two_runs(store, runs):
    with pytest.raises(UsageError, match="Name at least two runs"):
        app.call([str(runs[0]), "--store", str(store.path), "--paired"])
