"""Comparisons of evaluated runs in pairs, from the ranks that an evaluation wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest

from features.errors import InputError, MissingInput, UsageError
from models.compare import app
from models.evaluation.metrics import paired_bootstrap, paired_bootstraps, recall
from models.evaluation.results import read_ranks, write_ranks

OWNER = np.repeat(np.arange(60), 3)


def scored(strength, seed):
    """Return the recall of noise in which the right pairs stand out by ``strength``."""
    right = np.arange(60)[:, None] == OWNER
    return recall(np.random.default_rng(seed).normal(size=right.shape) + strength * right, OWNER)


def written(path, found, owner=OWNER):
    write_ranks(path, found, owner)
    return str(path)


def test_ranks_are_read_as_they_were_written(tmp_path):
    one = scored(2.0, 0)
    found, owner = read_ranks(tmp_path / written(tmp_path / "a.npz", one))
    assert dict(found) == dict(one)
    assert np.array_equal(found.t2i_ranks, one.t2i_ranks)
    assert np.array_equal(owner, OWNER)
    assert paired_bootstrap(found, one, owner, 50)["rsum"].value == 0


def test_several_seeds_are_compared_by_their_means(tmp_path):
    good, bad = [scored(2.5, seed) for seed in (0, 1)], [scored(1.0, seed) for seed in (2, 3)]
    found = paired_bootstraps([good, bad, [good[0]]], OWNER, 200)
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    means = [np.mean([one["rsum"] for one in row]) for row in (good, bad)]
    difference = found[0, 1]["rsum"]
    assert difference.value == pytest.approx(means[0] - means[1])
    assert difference.low > 0
    singles = [paired_bootstrap(one, two, OWNER, 200)["rsum"] for one in good for two in bad]
    mean_low = np.mean([one.low for one in singles])
    assert difference.low > mean_low  # a mean of seeds is less noisy than one seed
    assert found[0, 2]["rsum"].value == pytest.approx(means[0] - good[0]["rsum"])


def test_the_command_writes_or_prints_every_pair(tmp_path, capsys):
    names = [written(tmp_path / f"{n}.npz", scored(s, n)) for n, s in enumerate((2.5, 1.0, 1.0))]
    out = tmp_path / "out.json"
    rows = [names[0], f"{names[1]},{names[2]}"]
    assert app.call([*rows, "--json", str(out), "--bootstrap", "100"]) in (0, None)
    document = json.loads(out.read_text())
    assert (document["files"], document["samples"]) == (rows, 100)
    (pair,) = document["differences"]
    assert pair["rows"] == [0, 1]
    assert pair["metrics"]["rsum"]["value"] > 0
    assert pair["metrics"]["rsum"]["p"] == 0
    assert app.call([*names, "--bootstrap", "50"]) in (0, None)
    assert "95 % interval of paired samples" in capsys.readouterr().out


def test_what_cannot_be_compared(tmp_path):
    one = written(tmp_path / "a.npz", scored(1.0, 0))
    other = written(tmp_path / "b.npz", scored(1.0, 0), owner=OWNER[::-1])
    with pytest.raises(UsageError, match=r"b.npz and .*a.npz are of different captions"):
        app.call([one, other])
    with pytest.raises(UsageError, match="at least two files"):
        app.call([one])
    with pytest.raises(MissingInput, match=r"gone.npz: no such file.*--ranks"):
        app.call([one, str(tmp_path / "gone.npz")])
    (tmp_path / "text.npz").write_text("no ranks")
    np.savez(tmp_path / "other.npz", values=np.arange(3))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    write_ranks(tmp_path / "short.npz", scored(1.0, 0), OWNER[:9])
    for name in ("text", "other", "cut", "short"):
        with pytest.raises(InputError, match=rf"{name}.npz: not a file of models.evaluate"):
            app.call([one, str(tmp_path / f"{name}.npz")])
