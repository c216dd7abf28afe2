"""GSMN: parity with the released code, both readings, invariances, ablations."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import models
from features.batches.batch import CaptionBatch
from features.errors import ConfigError
from models.nn.blockwise import cut_blocks, fold_gram, match_nodes, quadratic_form
from models.nn.graphs import text_adjacency
from models.nn.losses import triplet_loss
from models.papers.gsmn import (
    GsmnCaptions,
    MatchingHead,
    PolarKernels,
    match_nodes_plain,
    polar_coordinates,
    text_edges,
)

SIZES = {"word_dim": 6, "embed_dim": 16, "blocks": 4, "kernels": 3, "kernel_dim": 2}
ABLATIONS = [
    {},
    {"propagation": "official"},
    {"text_graph": "dense"},
    {"graph": False},
    {"directions": "t2i"},
    {"directions": "i2t"},
    {"layers": 2, "activation": "tanh"},
    {"bidirectional": False},
    {"attention_norm": "none", "text_kernel_norm": "none", "region_bias": True},
    {"text_kernel_norm": "none", "propagation": "official"},
]


@pytest.fixture(scope="module")
def fixture(golden):
    parts = [golden(f"gsmn_{name}") for name in ("images", "words", "scores")]
    return {key: value for part in parts for key, value in part.items()}


def state(fixture):
    prefix = "param."
    return {key.removeprefix(prefix): v for key, v in fixture.items() if key.startswith(prefix)}


def captions_of(fixture) -> CaptionBatch:
    words, lengths = fixture["in.captions"], fixture["in.lengths"]
    heads = torch.full_like(words, -1)
    ends = fixture["in.dep_offsets"].tolist()
    for i, (start, end) in enumerate(pairwise(ends)):
        for head, dependent in fixture["in.dep_pairs"][start + 1 : end].tolist():  # first is ROOT
            heads[i, dependent] = head
    return CaptionBatch(
        rows=torch.arange(len(words)),
        image_rows=torch.arange(len(words)),
        words=words,
        word_mask=torch.arange(words.shape[1]) < lengths.unsqueeze(1),
        tags=torch.zeros_like(words),
        roles=torch.zeros_like(words),
        heads=heads,
        triplets=torch.zeros(len(words), 1, 2, dtype=torch.int64),
        triplet_spans=torch.zeros(len(words), 1, 3, dtype=torch.int64),
    )


@pytest.fixture
def encode(fixture, images_of_regions):
    """Return what encodes the images and captions of the parity fixture."""
    regions = fixture["in.images"]
    mask = torch.ones(regions.shape[:2], dtype=torch.bool)
    images = images_of_regions(regions, mask, fixture["in.bbox"])
    captions = captions_of(fixture)
    return lambda model: (model.encode_images(images), model.encode_captions(captions))


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_scores_match_the_released_code(fixture, encode, graph):
    model = models.load_official("gsmn", state(fixture), text_graph=graph)
    scores = model.score(*encode(model))
    assert torch.allclose(scores, fixture[f"out.scores_{graph}"], rtol=0, atol=1e-6)


def test_boxes_of_zeros_score_like_the_released_code(fixture, encode):
    whole = models.load_official("gsmn", state(fixture))
    model = models.create("gsmn", **{**vars(whole.options), "directions": "i2t"})
    model.load_state_dict({k: v for k, v in whole.state_dict().items() if k in model.state_dict()})
    images, captions = encode(model)
    wanted = fixture["out.v2t_scores"]
    assert torch.allclose(model.score(images, captions), wanted, rtol=0, atol=1e-6)
    images = images._replace(boxes=torch.zeros_like(images.boxes))
    zero = fixture["out.v2t_scores_zero_bbox"]
    assert torch.allclose(model.score(images, captions), zero, rtol=0, atol=1e-6)
    assert (zero - wanted).abs().max() > 1e-4


def test_the_head_scores_every_node_and_takes_no_mean():
    """The mean of Eq. (7)-(8) is taken afterwards, over the real nodes of a graph."""
    torch.manual_seed(0)
    head = MatchingHead(5, 7)
    vectors = torch.randn(2, 5, 3)
    found = head(vectors, 1)
    assert found.shape == (2, 3)
    for batch in range(2):
        for node in range(3):
            wanted = head.outer(head.inner(vectors[batch, :, node]).tanh())
            torch.testing.assert_close(found[batch, node], wanted[0])
    torch.testing.assert_close(head(vectors.transpose(1, 2), -1), found)


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_paper_propagation_matches_equation_6(fixture, encode, graph):
    model = models.load_official("gsmn", state(fixture), text_graph=graph, propagation="paper")
    scores = model.score(*encode(model))
    wanted = fixture["paper.v2t_scores"] + fixture[f"paper.t2v_scores_{graph}"]
    assert torch.allclose(scores, wanted, rtol=0, atol=1e-6)
    assert (wanted - fixture[f"out.scores_{graph}"]).abs().max() > 1e-2


@pytest.mark.parametrize("hard", [0, 1])
def test_loss_and_gradients_match_the_released_code(fixture, encode, hard):
    model = models.load_official("gsmn", state(fixture))
    images, captions = encode(model)
    first = GsmnCaptions(*(part[:6] for part in captions))
    loss = triplet_loss(model.score(images, first), hard_negatives=bool(hard))
    assert loss.item() == pytest.approx(fixture[f"out.loss_maxviol{hard}_6x6"].item(), rel=1e-5)
    loss.backward()
    kernel = "t2i_match_G.graph_convolution_3.conv_weights"
    rows = model.word_layers[0].weight.grad.view(8, 4, -1).norm(dim=(1, 2))
    for ours, theirs in (
        (model.region_layer.weight.grad.norm(), "img_enc.fc.weight"),
        (model.word_table.weight.grad.norm(), "txt_enc.embed.weight"),
        (model.word_rnn.rnn.weight_hh_l0.grad.norm(), "txt_enc.rnn.weight_hh_l0"),
        (model.polar[0].mean_rho.grad.norm(), "i2t_match_G.graph_convolution_1.mean_rho"),
        (
            model.polar[0].precision_theta.grad.norm(),
            "i2t_match_G.graph_convolution_1.precision_theta",
        ),
        (
            model.region_head.inner.parametrizations.weight.original1.grad.norm(),
            "i2t_match_G.out_1.weight_v",
        ),
        *((rows[k], f"{kernel}.{k}.weight") for k in range(8)),
    ):
        wanted = fixture[f"gradnorm{hard}.{theirs}"].item()
        assert ours.item() == pytest.approx(wanted, rel=1e-4), theirs


@pytest.mark.parametrize("options", ABLATIONS)
def test_batched_scores_equal_the_plain_definition(tiny, make_images, make_captions, options):
    torch.manual_seed(0)
    model = models.create("gsmn", **{**tiny, **SIZES, **options}).eval()
    with torch.no_grad():
        images = model.encode_images(make_images(5))
        captions = model.encode_captions(make_captions(7, images=5))
        scores = model.score(images, captions)
        assert torch.allclose(scores, models.reference(model, images, captions), atol=1e-6)
    assert scores.std() > 0


@pytest.mark.parametrize("options", ABLATIONS)
def test_invariances(tiny, check_invariances, options):
    torch.manual_seed(0)
    check_invariances(models.create("gsmn", **{**tiny, **SIZES, **options}))


def test_smallest_inputs_and_float16_features(tiny, check_edges):
    check_edges(models.create("gsmn", **{**tiny, **SIZES}))


@pytest.mark.parametrize("options", ABLATIONS[:3])
def test_gradients(tiny, check_gradients, options):
    torch.manual_seed(0)
    check_gradients(models.create("gsmn", **{**tiny, **SIZES, **options}))


def test_edge_rows_have_unit_length(make_captions):
    captions = make_captions(3)
    words = torch.randn(3, captions.words.shape[1], 4)
    near = text_adjacency(captions.heads, captions.word_mask)
    rows = text_edges(words, captions.word_mask, near, 2.0).norm(dim=-1)
    assert torch.allclose(rows[captions.word_mask], torch.ones(()), atol=1e-5)
    assert (rows[~captions.word_mask] == 0).all()


def test_polar_coordinates_of_two_boxes():
    boxes = torch.tensor([[[0.0, 0.0, 0.2, 0.2], [0.3, 0.4, 0.5, 0.6]]])
    rho, theta = polar_coordinates(boxes)
    assert rho[0, 0, 1].item() == pytest.approx(0.5)
    assert theta[0, 1, 0].item() == pytest.approx(torch.atan2(*torch.tensor([0.3, 0.4])).item())


def test_polar_kernels_share_one_and_survive_underflow():
    kernels = PolarKernels(3)
    boxes = torch.rand(1, 4, 4)
    share = kernels(boxes, torch.ones(1, 4, dtype=torch.bool)).sum(1)
    assert torch.allclose(share, torch.ones(()), atol=1e-6)
    with torch.no_grad():
        kernels.precision_rho.fill_(1e-4)
        kernels.mean_rho.fill_(100.0)
    weights = kernels(boxes, torch.ones(1, 4, dtype=torch.bool))
    assert (weights == 0).all()
    weights.sum().backward()
    assert torch.isfinite(kernels.mean_rho.grad).all()


def test_quadratic_form_is_the_length_of_the_mix():
    vectors, weights = torch.randn(2, 5, 12), torch.randn(2, 5, 3)
    gram = vectors.view(2, 5, 4, 3).permute(0, 2, 1, 3)
    found = quadratic_form(weights, fold_gram(gram @ gram.transpose(2, 3)))
    mixed = torch.einsum("bnm,bnd->bmd", weights, vectors).view(2, 3, 4, 3)
    assert torch.allclose(found, mixed.square().sum(-1).transpose(1, 2), atol=1e-4)


def test_blocks_do_not_depend_on_padded_values():
    vectors, mask = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    nodes = cut_blocks(vectors, mask, 2)
    vectors[0, 2] = 99.0
    assert all(torch.equal(a, b) for a, b in zip(nodes, cut_blocks(vectors, mask, 2), strict=True))


def test_blocks_must_divide_the_width():
    with pytest.raises(ConfigError, match="Choose a divisor"):
        models.create("gsmn", embed_dim=16, blocks=5)


@pytest.mark.parametrize("norm", ["clipped_l2norm", "none"])
def test_words_opposite_to_every_region_ignore_pads(norm):
    """The similarity of a pad, 0, is then the highest, but must not attract attention."""
    torch.manual_seed(0)
    blocks = 2
    regions = nn.functional.normalize(torch.rand(3, 5, 8, dtype=torch.float64), dim=-1)
    words = -nn.functional.normalize(torch.rand(4, 3, 8, dtype=torch.float64), dim=-1)
    region_mask = torch.arange(5) < torch.tensor([1, 3, 5])[:, None]
    word_mask = torch.arange(3) < torch.tensor([1, 1, 2, 3])[:, None]
    regions, words = regions * region_mask[..., None], words * word_mask[..., None]
    of_words, of_regions = match_nodes(
        cut_blocks(words, word_mask, blocks), cut_blocks(regions, region_mask, blocks), 20.0, norm
    )
    for number, (word, mask) in enumerate(zip(words, word_mask, strict=True)):
        word, mask = word.expand(3, -1, -1), mask.expand(3, -1)
        one = match_nodes_plain(word, regions, region_mask, 20.0, norm, blocks)
        other = match_nodes_plain(regions, word, mask, 20.0, norm, blocks)
        torch.testing.assert_close(of_words[number], one.transpose(0, 1))
        torch.testing.assert_close(of_regions[:, :, number], other.transpose(1, 2))


def test_the_gradient_of_polar_kernels_is_that_of_differences():
    torch.manual_seed(0)
    kernels = PolarKernels(3).double()
    boxes, mask = torch.rand(2, 4, 4).double(), torch.rand(2, 4) > 0.2
    start = [value.detach().clone().requires_grad_() for value in kernels.parameters()]
    with torch.no_grad():
        start[1][:2] = torch.tensor([3.1, -3.1])  # some pairs turn the other way round
    names = [name for name, _ in kernels.named_parameters()]

    def run(*values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(kernels, state, (boxes, mask))

    assert torch.autograd.gradcheck(run, start)
