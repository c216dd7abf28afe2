"""SCAN: every mode against the released code, invariances, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import models
from models.baselines.scan import ScanCaptions, ScanImages

TINY_SCAN = {"word_dim": 6, "embed_dim": 8}
NORMS = ["softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "no_norm"]
POOLS = {"log_sum_exp": "LogSumExp", "mean": "Mean", "max": "Max", "sum": "Sum"}
MODES = [(norm, "mean") for norm in NORMS] + [
    ("clipped_l2norm", pool) for pool in POOLS if pool != "mean"
]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize(("norm", "pool"), MODES)
def test_scores_match_the_released_code(golden, direction, norm, pool):
    z = golden("scan_scores")
    model = models.create("scan", image_dim=4, direction=direction, norm=norm, pool=pool)
    regions, words = z["out.img_emb"], z["out.cap_emb"]
    mask = torch.arange(words.shape[1]) < z["in.lengths"].unsqueeze(1)
    images = ScanImages(regions, torch.ones(regions.shape[:2], dtype=torch.bool))
    captions = ScanCaptions(words * mask.unsqueeze(-1), mask)
    expected = z[f"out.{direction}_{norm}_{POOLS[pool]}"]
    with torch.no_grad():
        torch.testing.assert_close(model.score(images, captions), expected, atol=1e-5, rtol=0)
        plain = models.reference(model, images, captions)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)


def test_encoders_match_the_released_code(golden, make_images, make_captions):
    z = golden("scan_encoders")
    model = models.create("scan", image_dim=96, vocab_size=50, word_dim=20, embed_dim=64).eval()
    state = {}
    for key, value in z.items():
        if key.startswith("param."):
            name = key.removeprefix("param.").replace("img_enc.", "").replace("txt_enc.", "text.")
            state[name.replace("text.rnn", "text.gru.rnn")] = value
    model.load_state_dict(state)
    images = dataclasses.replace(
        make_images(1, objects=(36, 36)), objects=z["in.images"], labels=None
    )
    words = z["in.captions"]
    mask = torch.arange(words.shape[1]) < z["in.lengths"].unsqueeze(1)
    captions = dataclasses.replace(make_captions(9), words=words, word_mask=mask)
    with torch.no_grad():
        regions = model.encode_images(images).regions
        code = model.encode_captions(captions)
    torch.testing.assert_close(regions, z["out.img_emb"], atol=1e-5, rtol=0)
    expected = z["out.cap_emb"] * mask.unsqueeze(-1)
    torch.testing.assert_close(code.words, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize(
    ("norm", "pool"),
    [("clipped_l2norm", "mean"), ("softmax", "log_sum_exp"), ("l1norm", "max")],
)
def test_invariances_and_smallest_inputs(
    tiny, check_invariances, check_edges, direction, norm, pool
):
    torch.manual_seed(0)
    model = models.create("scan", **tiny, **TINY_SCAN, direction=direction, norm=norm, pool=pool)
    check_invariances(model)
    check_edges(model)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_gradients(tiny, check_gradients, direction):
    torch.manual_seed(0)
    check_gradients(models.create("scan", **tiny, **TINY_SCAN, direction=direction))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_batched_scores_equal_the_plain_definition(tiny, make_images, make_captions, direction):
    torch.manual_seed(0)
    model = models.create("scan", **tiny, **TINY_SCAN, direction=direction).eval()
    with torch.no_grad():
        images = model.encode_images(make_images(5, objects=(1, 6)))
        captions = model.encode_captions(make_captions(7, words=(1, 9)))
        batched, plain = model.score(images, captions), models.reference(model, images, captions)
    torch.testing.assert_close(batched, plain, atol=1e-6, rtol=0)
