"""What models tell about words and regions is what their scores are made of."""

import numpy as np
import pytest
import torch

import models
from features.records import TextGraph
from models.nn import cosine
from models.nn.blockwise import cut_blocks, match_nodes
from models.papers.racg import relate
from models.registry import WordRegions
from models.web.words import rows_of

SIZES = {"embed_dim": 16, "word_dim": 8}


@pytest.fixture
def pair(tiny, make_images, make_captions):
    """Return a model with the codes of one image and one caption of a batch."""

    def make(name, **options):
        torch.manual_seed(1)
        known = {key: value for key, value in tiny.items() if key in options or key != "n_tags"}
        fields = models.registry.options_class(name).__dataclass_fields__
        model = models.create(
            name, **{k: v for k, v in {**known, **SIZES, **options}.items() if k in fields}
        ).eval()
        with torch.inference_mode():
            images = model.encode_images(make_images(3))
            captions = model.encode_captions(make_captions(4))
        pick = models.compute.pick
        return model, pick(images, slice(1, 2)), pick(captions, slice(2, 3))

    return make


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_scan_scores_with_this_attention(pair, direction):
    model, image, caption = pair("scan", direction=direction, pool="mean")
    with torch.inference_mode():
        found = model.word_regions(image, caption).weights
        words, regions = caption.words[0], image.regions[0]
        if direction == "t2i":
            cosines = cosine(words, found @ regions)[caption.mask[0]]
        else:
            cosines = cosine(regions, found.T @ words)[image.mask[0]]
        assert cosines.mean() == pytest.approx(model.score(image, caption).item(), abs=1e-5)


def test_gsmn_matches_nodes_with_this_attention(pair):
    model, image, caption = pair("gsmn", blocks=4)
    o = model.options
    with torch.inference_mode():
        found = model.word_regions(image, caption).weights
        nodes = [cut_blocks(*part[:2], o.blocks) for part in (caption, image)]
        expected = match_nodes(*nodes, o.scale, o.attention_norm, for_regions=False)[0][0, :, 0]
        context = found @ image.regions[0]
        own = caption.words[0].view(-1, o.blocks, 4)
        real = caption.mask[0]
        blocks = cosine(own, context.view(-1, o.blocks, 4))
    assert torch.allclose(blocks[real], expected[real], atol=1e-5)


def test_racg_relates_words_to_regions_as_its_definition(pair):
    model, image, caption = pair("racg", heads=4, position_dim=8)
    with torch.inference_mode():
        found = model.word_regions(image, caption).weights
        seen = caption.cross[0].unsqueeze(1) & image.mask[0]
        expected = relate(model._maps("across"), caption.nodes[0], image.nodes[0], seen)
    assert torch.allclose(found, expected, atol=1e-5)


def test_sgm_scores_the_best_of_these(pair):
    model, image, caption = pair("sgm", relation_weight=0.0)
    with torch.inference_mode():
        found = model.word_regions(image, caption).weights
        best = found[caption.word_mask[0]][:, image.object_mask[0]].amax(1).mean()
        assert best == pytest.approx(model.score(image, caption).item(), abs=1e-5)


@pytest.mark.parametrize(("part", "rows"), [("coarse", "words"), ("fine_object", "ends")])
def test_cfsgr_attends_with_weights_that_sum_to_one(pair, part, rows):
    model, image, caption = pair("cfsgr", part=part)
    with torch.inference_mode():
        found = model.word_regions(image, caption)
        network = model.parts[0]
        assert found.rows == rows
        if part == "fine_object":
            code = network.code(*image)
            mixed = found.weights @ code.local[0]
            from models.papers.cfsgr import scan_attention

            text = network.code(*caption)
            real = text.mask[0]
            expected = scan_attention(
                text.local[:, real], code.local, code.mask, network.compare.scale
            )[0]
            unit = mixed[real] / mixed[real].norm(dim=-1, keepdim=True)
            assert torch.allclose(unit, expected, atol=1e-5)
        else:
            assert found.weights.sum(1).max() <= 1 + 1e-5


def test_predicates_have_no_regions_of_objects(pair):
    model, image, caption = pair("cfsgr", part="fine_predicate")
    with torch.inference_mode():
        assert model.word_regions(image, caption) is None


def test_rows_leave_out_marks_and_padding():
    graph = TextGraph(
        "A dog .", tokens=("A", "dog", "."), roles=("other", "object", "other"),
        objects=("dog", "ball"), relations=((0, "have", 1), (0, "see", 1)),
    )  # fmt: skip
    weights = torch.tensor([[9.0, 9, 9], [0.2, 0.1, 9], [0.1, 0.4, 9], [7, 7, 7], [8, 8, 8]])
    found = rows_of(graph, WordRegions("words", weights, "attention"), 2)
    assert [row.name for row in found] == ["A", "dog"]
    assert [row.content for row in found] == [False, True]
    assert found[1].best == [1, 0]
    assert np.allclose(found[1].shares, [0.0, 0.6])
    same = torch.tensor([[0.2, 0.1], [0.3, 0.4], [0.2, 0.1], [0.3, 0.4], [9, 9]])
    ends = rows_of(graph, WordRegions("ends", same, "attention"), 2)
    assert [row.name for row in ends] == ["dog", "ball"]
    even = rows_of(graph, WordRegions("words", torch.full((5, 2), 0.5), "attention"), 2)
    assert even[0].best == []
    assert even[0].shares == [0.0, 0.0]
    nothing = rows_of(graph, WordRegions("words", torch.zeros(5, 2), "attention"), 2)
    assert nothing[0].best == []
