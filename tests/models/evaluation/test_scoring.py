"""Scores of a whole split under any budget; joining and picking codes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
import torch

import models
from models.compute.codes import code_bytes, join, pick
from models.evaluation import scoring
from models.evaluation.scoring import score_all

TINY = {"word_dim": 6, "embed_dim": 8}


class FakeStore:
    """One split of synthetic images and captions, in batches of any size."""

    def __init__(self, images, captions):
        self.images, self.captions = images, captions
        self.codebook = "the default codebook"
        self.passes = 0

    def image_rows(self, split):
        return self.images.rows

    def caption_rows(self, split):
        return self.captions.rows

    def image_batches(self, split, batch_size, codebook, *, unions):
        assert (split, codebook) == ("test", "the default codebook")
        images = self.images
        if not unions:
            images = dataclasses.replace(images, unions=images.unions[..., :0])
        return self._cut(images, batch_size)

    def caption_batches(self, split, batch_size, codebook):
        self.passes += 1
        return self._cut(self.captions, batch_size)

    def _cut(self, batch, size):
        for start in range(0, len(batch.rows), size):
            yield batch.index(slice(start, start + size))


@pytest.fixture
def store(make_images, make_captions):
    return FakeStore(make_images(11), make_captions(17, images=11))


@pytest.fixture
def sgm(tiny):
    torch.manual_seed(0)
    return models.create("sgm", **tiny, **TINY)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgm", {}),
        ("scan", {}),
        ("vse", {}),
        ("cfsgr", {}),
        ("gsmn", {"blocks": 2}),
        ("racg", {"heads": 4, "position_dim": 4}),
        ("hrem", {"heads": 4}),
    ],
)
def test_scores_do_not_depend_on_the_batch_size(tiny, store, name, options):
    torch.manual_seed(0)
    model = models.create(name, **tiny, **TINY, **options).eval()
    with torch.no_grad():
        codes = model.encode_images(store.images), model.encode_captions(store.captions)
        expected = model.score(*codes)
    for size in (1, 4, 100):
        scores = score_all(model, store, "test", batch_size=size)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_a_small_budget_splits_images_into_groups(sgm, store, monkeypatch):
    whole = score_all(sgm, store, "test", batch_size=2)
    assert store.passes == 1
    with torch.no_grad():
        one = code_bytes(sgm.encode_images(store.images.index(slice(0, 2))))
    held = []
    joined = scoring.join
    monkeypatch.setattr(
        scoring,
        "join",
        lambda codes: held.append(sum(map(code_bytes, codes))) or joined(codes),
    )
    store.passes = 0
    budget = 5 * one  # half of it holds two of the six image batches
    scores = score_all(sgm, store, "test", batch_size=2, budget=budget)
    torch.testing.assert_close(scores, whole, atol=1e-6, rtol=0)
    assert store.passes == len(held) == 3
    assert max(held) <= budget / 2


def test_the_model_keeps_its_mode(sgm, store):
    sgm.train()
    assert not score_all(sgm, store, "test").requires_grad
    assert sgm.training
    assert torch.get_float32_matmul_precision() == "highest"
    sgm.encode_captions = None
    with pytest.raises(TypeError):
        score_all(sgm, store, "test", precision="tf32")
    assert sgm.training
    assert torch.get_float32_matmul_precision() == "highest"


def test_low_precision_is_close(sgm, store):
    exact = score_all(sgm, store, "test")
    rough = score_all(sgm, store, "test", precision="bf16")
    assert rough.dtype == torch.float32
    worst = (rough - exact).abs().max()
    assert 0 < worst < 2e-2


def test_codes_join_with_zero_padding_and_rows_can_be_picked():
    class Code(NamedTuple):
        x: torch.Tensor
        mask: torch.Tensor

    a = Code(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
    b = Code(torch.full((1, 2), 5.0), torch.ones(1, 2, dtype=torch.bool))
    joined = join([a, b])
    assert type(joined) is Code
    assert joined.x.tolist() == [[1, 1, 1], [1, 1, 1], [5, 5, 0]]
    assert joined.mask.tolist()[2] == [True, True, False]
    picked = pick(joined, torch.tensor([2]))
    assert type(picked) is Code
    assert picked.x.tolist() == [[5, 5, 0]]
    assert type(pick(tuple(joined), slice(1))) is tuple
    assert code_bytes(b) == 2 * 4 + 2
