"""RACG: batched scores against the plain definition, readings, ablations, invariances."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import models
from features.errors import ConfigError
from models.papers.racg import RelationMaps, cross_words, racg_loss, reconstruct, relate

SIZES = {"word_dim": 6, "embed_dim": 16, "position_dim": 4, "tag_dim": 3, "heads": 4}
SIZES |= {"head_hidden": 5}
ABLATIONS = [
    {},
    {"c_form": "literal"},
    {"c_form": "vsrn"},
    {"text_graph": "dense", "cross_nodes": "all"},
    {"relate_regions": False},
    {"relate_words": False, "c_form": "literal"},
    {"relate_across": False},
    {"multi_head": False},
    {"position_dim": 0},
    {"tag_dim": 0},
    {"box_area": True, "share_maps": False},
    {"unit_nodes": False, "cross_nodes": "nouns"},
]


def build(tiny, options):
    torch.manual_seed(0)
    model = models.create("racg", **{**tiny, **SIZES, **options})
    with torch.no_grad():
        for value in model.parameters():  # biases too, so that none of them is zero
            value += 0.2 * torch.randn_like(value)
    return model


@pytest.mark.parametrize("options", ABLATIONS)
def test_batched_scores_equal_the_plain_definition(tiny, make_images, make_captions, options):
    model = build(tiny, options).eval()
    with torch.no_grad():
        images = model.encode_images(make_images(5))
        captions = model.encode_captions(make_captions(7, images=5))
        scores = model.score(images, captions)
        assert torch.allclose(scores, models.reference(model, images, captions), atol=1e-6)
    assert scores.std() > 0


def test_every_option_changes_the_scores(tiny, make_images, make_captions):
    found = {}
    for options in ABLATIONS[:7]:
        model = build(tiny, options).eval()
        with torch.no_grad():
            images = model.encode_images(make_images(5))
            scores = model.score(images, model.encode_captions(make_captions(5)))
        found[str(options)] = scores
    for name, scores in found.items():
        same = [other for other, s in found.items() if torch.allclose(s, scores, atol=1e-7)]
        assert same == [name]


@pytest.mark.parametrize("options", ABLATIONS)
def test_invariances(tiny, check_invariances, options):
    check_invariances(build(tiny, options))


@pytest.mark.slow
def test_bert_reads_tags_on_request_only(tiny, make_images, make_captions):
    captions = make_captions(4, pieces=1000)
    other = dataclasses.replace(captions, tags=captions.tags.flip(1) * captions.word_mask)

    def scores(batch, **options):
        torch.manual_seed(0)
        sizes = {**tiny, **SIZES, "text_encoder": "bert", **options}
        model = models.create("racg", **sizes).eval()
        with torch.no_grad():
            return model.score(model.encode_images(make_images(3)), model.encode_captions(batch))

    assert torch.equal(scores(captions), scores(other))
    assert torch.equal(scores(captions), scores(captions, tag_dim=0))
    with_tags = scores(captions, bert_tags=True)
    assert (with_tags - scores(other, bert_tags=True)).abs().max() > 1e-4
    assert torch.equal(scores(captions), scores(captions, tag_dim=0, bert_tags=True))


def test_smallest_inputs_and_float16_features(tiny, check_edges):
    check_edges(build(tiny, {}))


@pytest.mark.parametrize("options", ABLATIONS[:3])
def test_gradients(tiny, check_gradients, options):
    check_gradients(build(tiny, {**options, "beta": 3.0, "gamma": -3.0}))


def test_gradients_do_not_depend_on_the_tiles(tiny, make_images, make_captions, monkeypatch):
    def slopes():
        model = build(tiny, {})
        model.loss(make_images(4), make_captions(4)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = slopes()
    monkeypatch.setattr("models.nn.tiling.CPU_TILE", 1)
    assert torch.allclose(slopes(), whole, atol=1e-5)


def test_relations_are_a_softmax_over_neighbours():
    torch.manual_seed(0)
    maps, nodes = RelationMaps(4), torch.randn(3, 4)
    near = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    found = relate(maps, nodes, nodes, near)
    raw = (maps.kappa(nodes) @ maps.mu(nodes).T).exp() * near
    wanted = raw / raw.sum(1, keepdim=True).clamp_min(1e-9)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert (found[2] == 0).all()


def test_cross_words_follow_the_roles():
    roles, mask = torch.tensor([[4, 1, 2, 3, 1]]), torch.tensor([[True] * 4 + [False]])
    for nodes, wanted in (("all", [0, 1, 2, 3]), ("nouns_attributes", [1, 2]), ("nouns", [1])):
        assert cross_words(roles, mask, nodes)[0].nonzero().flatten().tolist() == wanted


def test_reconstruction_mixes_unit_nodes():
    torch.manual_seed(0)
    nodes, aggregated = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    mask = torch.tensor([[True, True, False]])
    unit = torch.nn.functional.normalize(aggregated[0, :2], dim=-1)
    wanted = (4.0 * nodes[0] @ unit.T).softmax(-1) @ unit
    found = reconstruct(nodes, aggregated, mask, 4.0)[0]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_losses_by_hand():
    scores = torch.tensor([[0.5, 0.4, 0.1], [0.6, 0.9, 0.2], [0.0, 0.1, 0.8]])
    negatives = ~torch.eye(3, dtype=torch.bool)
    main, auxiliary = racg_loss(scores, negatives, alpha=0.2, beta=0.7, gamma=0.3)
    # rows: 0.2-0.5+0.4, 0.2-0.9+0.6 < 0, 0.2-0.8+0.1 < 0; columns: 0.2-0.5+0.6, < 0, < 0
    assert main.item() == pytest.approx(0.1 + 0.3)
    # hard negatives of rows 0.4, 0.6, 0.1 and columns 0.6, 0.4, 0.2; one pair below 0.7
    assert auxiliary.item() == pytest.approx(0.1 + 0.3 + 0.3 + 0.1 + 0.2)


def test_losses_without_hard_negatives_count_every_negative():
    scores = torch.tensor([[0.5, 0.4, 0.1], [0.6, 0.9, 0.2], [0.0, 0.35, 0.8]])
    negatives = ~torch.eye(3, dtype=torch.bool)
    margins = {"alpha": 0.2, "beta": 0.7, "gamma": 0.3}
    main, auxiliary = racg_loss(scores, negatives, **margins, hard_negatives=False)
    # row 0: 0.2-0.5+0.4; column 0: 0.2-0.5+0.6; the others are below 0
    assert main.item() == pytest.approx(0.1 + 0.3)
    # 0.4, 0.6 and 0.35 are above 0.3, each seen from its row and its column; one pair below 0.7
    assert auxiliary.item() == pytest.approx(2 * (0.1 + 0.3 + 0.05) + 0.2)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="multiple of heads"):
        models.create("racg", embed_dim=16, heads=5)


@pytest.mark.slow
def test_bert_words(tiny, check_invariances):
    torch.manual_seed(0)
    model = models.create("racg", **{**tiny, **SIZES, "text_encoder": "bert"})
    check_invariances(model, pieces=1000)
