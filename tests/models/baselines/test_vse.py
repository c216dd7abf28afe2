"""VSE: pooling against plain means, invariances, both text encoders."""

from __future__ import annotations

import pytest
import torch

import models

TINY_VSE = {"word_dim": 6, "embed_dim": 8}


@pytest.mark.parametrize("image_pool", ["mean", "max"])
@pytest.mark.parametrize("text_pool", ["last", "mean", "max"])
def test_invariances_and_smallest_inputs(
    tiny, check_invariances, check_edges, image_pool, text_pool
):
    torch.manual_seed(0)
    pools = {"image_pool": image_pool, "text_pool": text_pool}
    model = models.create("vse", **tiny, **TINY_VSE, **pools)
    check_invariances(model)
    check_edges(model)


def test_gradients(tiny, check_gradients):
    torch.manual_seed(0)
    check_gradients(models.create("vse", **tiny, **TINY_VSE))


def test_scores_are_cosines_of_means(tiny, make_images, make_captions):
    torch.manual_seed(0)
    model = models.create("vse", **tiny, **TINY_VSE).eval()
    images, captions = make_images(3), make_captions(2)
    with torch.no_grad():
        codes = model.encode_images(images), model.encode_captions(captions)
        scores = model.score(*codes)
        n = int(images.object_mask[1].sum())
        image = model.fc(images.objects[1, :n]).mean(0)
        text = model.text(captions.words[:1], captions.word_mask[:1])[0]
        text = text[: int(captions.lengths[0])].mean(0)
    expected = torch.nn.functional.cosine_similarity(image, text, dim=0)
    torch.testing.assert_close(scores[1, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(models.reference(model, *codes), scores, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_reads_pieces_with_the_packaged_bert(tiny, check_invariances):
    torch.manual_seed(0)
    model = models.create("vse", **tiny, embed_dim=8, text_encoder="bert")
    check_invariances(model, pieces=1000)
