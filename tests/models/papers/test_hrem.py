"""HREM: parity with the released code, mechanisms, sampling, invariances."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import models
from models.nn.bert import Bert, BertConfig
from models.papers.hrem import (
    Attention,
    Embeddings,
    Encoded,
    Hrem,
    RegionProjection,
    attention_bias,
    distance_weights,
    drop_regions,
    drop_words,
    embedding_relevance,
    nearest_neighbours,
    pool,
    sampled_triplet_loss,
)
from models.released.layouts import LAYOUTS

OFFICIAL = Path(__file__).resolve().parents[4] / "shared/data/parity/hrem_training_official.npz"
SIZES = {"word_dim": 6, "embed_dim": 16, "heads": 4, "warm_up": 0}
ABLATIONS = [
    {},
    {"mechanism": "standalone"},
    {"relate_regions": False, "relate_words": False},
    {"relate_instances": "none"},
    {"relate_instances": "inter"},
    {"relate_instances": "intra"},
    {"mechanism": "standalone", "relate_instances": "inter"},
    {"mechanism": "standalone", "relate_instances": "intra", "connection": False},
    {"connection": False},
    {"relevance": False},
    {"mechanism": "standalone", "relevance": False, "connection": False},
    {"consistency": False},
    {"consistency": False, "without_consistency": "released"},
    {"regularization": 0.0},
    {"image_mlp": False, "maxk": 1, "scan_norm": False, "relevance_distance": "squared"},
]


class GivenWords(torch.nn.Module):
    """A text encoder that returns the word features of the fixture."""

    def __init__(self, words: torch.Tensor, mask: torch.Tensor) -> None:
        super().__init__()
        self.words, self.mask = words, mask

    def encode_pieces(self, captions: object) -> tuple[torch.Tensor, torch.Tensor]:
        return self.words, self.mask


@pytest.fixture(scope="module")
def fixture(golden):
    names = ("images", "relation_image", "relation_text", "graph", "outputs")
    return {key: v for name in names for key, v in golden(f"hrem/{name}").items()}


@pytest.fixture(scope="module")
def parts(fixture, images_of_regions):
    """The model with the released weights, encoded images and captions."""
    words = fixture["out.cap_local"]
    mask = torch.arange(words.shape[1]) < fixture["in.cap_len"].unsqueeze(1)
    options = models.build_options(
        "hrem",
        image_dim=96,
        embed_dim=64,
        heads=4,
        text_encoder="bert",
        official_pad=True,
        relevance_weight=1.5,
        warm_up=0,
        negatives="likeliest",
    )
    model = Hrem(options, text=GivenWords(words, mask))
    theirs = {k.removeprefix("param."): v for k, v in fixture.items() if k.startswith("param.")}
    layout = LAYOUTS["hrem"]
    state = {layout.rename(k): v for k, v in theirs.items() if layout.rename(k)}
    model.load_state_dict(state)
    model.eval()
    real = torch.arange(fixture["in.images"].shape[1]) < fixture["in.img_len"].unsqueeze(1)
    images = images_of_regions(fixture["in.images"], real)
    return model, model.encode_image_fragments(images), model.encode_caption_fragments(None)


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max().item() <= 1e-5


def test_embeddings_match_the_released_code(fixture, parts):
    model, images, captions = parts
    near(images.vectors, fixture["out.img_emb"])
    near(captions.vectors, fixture["out.cap_emb"])
    scores = model.score(Embeddings(images.vectors), Embeddings(captions.vectors))
    near(scores, fixture["out.sim_8x8"])


def test_association_graph_matches_the_released_code(fixture, parts):
    model, images, captions = parts
    connected, relevance = model.relations(images, captions)
    for block in ("i2i", "i2t", "t2i", "t2t"):
        assert torch.equal(getattr(connected, block), fixture[f"out.connect_{block}"]), block
        near(getattr(relevance, block), fixture[f"out.relevance_{block}"])
    bias = attention_bias(connected.joined(), relevance.joined(), 1.5)
    wanted = fixture["out.attn_mask"]
    real = torch.isfinite(wanted)
    near(bias[real], wanted[real])
    assert (bias[~real] < -1e30).all()
    near(model.regularize(images.vectors, captions.vectors, relevance), fixture["out.reg_loss"])
    enhanced = torch.cat(model.enhance(images.vectors, captions.vectors, connected, relevance))
    near(enhanced, torch.nn.functional.normalize(fixture["out.enhanced_emb"], dim=-1))


def test_losses_match_the_released_code(fixture, parts):
    model, images, captions = parts
    ids = fixture["in.img_ids"]
    positives = ids.unsqueeze(1) == ids
    kept = model.options
    try:
        for options, name in (
            ({}, "total_loss_argmax"),
            ({"negatives": "hardest"}, "total_loss_vse_maxviol"),
            ({"negatives": "hardest", "warm_up": 1}, "base_loss_vse_maxviol"),
        ):
            model.options = dataclasses.replace(kept, **options)
            loss = model.batch_loss(images, captions, positives)
            assert loss.item() == pytest.approx(fixture[f"out.{name}"].item(), rel=1e-5), name
    finally:
        model.options = kept
    rows = positives.nonzero()[:, 0]
    scores = fixture["out.sim_8x8"]
    for direction, matrix in (("i2t", scores), ("t2i", scores.T)):
        near(distance_weights(matrix, ~positives, 1.7)[rows], fixture[f"out.dw_weight_{direction}"])
        loss = sampled_triplet_loss(matrix, positives, margin=0.2, far=1.7, sampled=False)
        near(loss, fixture[f"out.triplet_{direction}_argmax_loss"])


def test_pads_take_part_only_on_request(parts):
    model, images, captions = parts
    official = model.relations(images, captions)[1].t2i
    model.matching.official_pad = False
    try:
        honest = model.relations(images, captions)[1].t2i
        junk = captions.fragments.masked_fill(~captions.mask.unsqueeze(-1), 7.0)
        again = model.relations(images, captions._replace(fragments=junk))[1].t2i
    finally:
        model.matching.official_pad = True
    assert (official - honest).abs().max() > 1e-3
    assert torch.equal(honest, again)


@pytest.mark.parametrize("options", ABLATIONS)
def test_every_ablation_trains(tiny, make_images, make_captions, options):
    torch.manual_seed(0)
    model = models.create("hrem", **{**tiny, **SIZES, **options})
    loss = model.loss(make_images(6), make_captions(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"image_mlp": False}, ABLATIONS[2]])
def test_invariances(tiny, check_invariances, options):
    torch.manual_seed(0)
    check_invariances(models.create("hrem", **{**tiny, **SIZES, **options}))


def test_smallest_inputs_and_float16_features(tiny, check_edges):
    check_edges(models.create("hrem", **{**tiny, **SIZES}))


@pytest.mark.parametrize("mechanism", ["fusion", "standalone"])
def test_gradients(tiny, check_gradients, mechanism):
    torch.manual_seed(0)
    # learned relevance reads detached fragments on purpose, so it has no true slope
    options = {"mechanism": mechanism, "negatives": "all", "relevance": False}
    check_gradients(models.create("hrem", **{**tiny, **SIZES, **options}))


def test_scores_equal_the_plain_definition(tiny, make_images, make_captions):
    model = models.create("hrem", **{**tiny, **SIZES}).eval()
    images, captions = model.encode_images(make_images(4)), model.encode_captions(make_captions(5))
    assert torch.allclose(
        model.score(images, captions), models.reference(model, images, captions), atol=1e-6
    )


def test_association_graph_takes_part_after_the_warm_up(tiny, make_images, make_captions):
    options = {**tiny, **SIZES, "warm_up": 3, "negatives": "hardest", "drop_words": 0.0}
    model = models.create("hrem", **{**options, "drop_regions": 0.0, "dropout": 0.0})
    before = model.loss(make_images(4), make_captions(4))
    model.set_step(3)
    assert model.loss(make_images(4), make_captions(4)) > before


def test_loss_takes_its_codes_from_the_exchange(tiny, make_images, make_captions):
    """In a distributed run, the exchange returns more rows than the batch has."""
    torch.manual_seed(0)
    model = models.create("hrem", **{**tiny, **SIZES, "negatives": "all"}).eval()
    images, captions = make_images(6), make_captions(6)
    whole = model.loss(images, captions)
    codes = iter([model.encode_image_fragments(images), model.encode_caption_fragments(captions)])
    exchange = SimpleNamespace(
        gather=lambda code: next(codes), rows=lambda rows: captions.image_rows
    )
    some = slice(3)
    assert torch.allclose(model.loss(images.index(some), captions.index(some), exchange), whole)


def test_standalone_mixes_the_modalities(tiny):
    torch.manual_seed(0)
    model = models.create("hrem", **{**tiny, **SIZES, "mechanism": "standalone"}).eval()
    fragments = torch.randn(4, 3, 16)
    side = Encoded(torch.randn(4, 16), fragments, torch.ones(4, 3, dtype=torch.bool))
    graph = model.relations(side, side)
    first, _ = model.enhance(side.vectors, side.vectors, *graph)
    other, _ = model.enhance(side.vectors, side.vectors.flip(1), *graph)
    assert (first - other).abs().max() > 1e-3


def test_attention_obeys_connections():
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0)
    nodes = torch.randn(1, 4, 8)
    bias = attention_bias(torch.eye(4, dtype=torch.bool), None, 1.0)
    alone = torch.cat([attention(nodes[:, i : i + 1], nodes[:, i : i + 1]) for i in range(4)], 1)
    assert torch.allclose(attention(nodes, nodes, bias), alone, atol=1e-6)


def test_pool_averages_the_largest():
    fragments = torch.tensor([[[1.0], [5.0], [3.0], [99.0]], [[2.0], [9.0], [9.0], [9.0]]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    related = fragments * 10
    found = pool(fragments, related, mask, 0.8, 2).flatten().tolist()
    assert found == pytest.approx([0.8 * 4 + 0.2 * 30, 0.8 * 2 + 0.2 * 20])
    assert pool(fragments, None, mask, 1.0, 1).flatten().tolist() == [5.0, 2.0]


def test_nearest_neighbours_include_ties_and_at_least_one():
    similar = torch.tensor([[0.1, 0.9, 0.9, 0.3], [0.4, 0.3, 0.2, 0.1]])
    assert nearest_neighbours(similar, 0.25).tolist() == [
        [False, True, True, False],
        [True] + [False] * 3,
    ]
    assert nearest_neighbours(similar, 0.0).sum(1).tolist() == [2, 1]


def test_relevance_has_finite_gradients_at_zero_distance():
    points = torch.randn(3, 4, requires_grad=True)
    close = embedding_relevance(points, points, "l2")
    assert torch.equal(close.diagonal(), torch.ones(3))
    close.sum().backward()
    assert torch.isfinite(points.grad).all()
    squared = embedding_relevance(points[:1], points[1:2], "squared")
    wanted = (-(points[0] - points[1]).square().sum()).exp()
    assert squared.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_negatives_too_far_away_cost_nothing():
    scores = torch.tensor([[0.9, -1.0], [-1.0, 0.9]])
    positives = torch.eye(2, dtype=torch.bool)
    assert distance_weights(scores, ~positives, 1.7).sum() == 0
    assert sampled_triplet_loss(scores, positives, margin=5.0, far=1.7) == 0


def test_drop_words_closes_the_gaps():
    torch.manual_seed(0)
    ids = torch.arange(1, 41).repeat(50, 1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 35:] = False
    found = drop_words(ids * mask, mask, 0.5, 3, 1000)
    lengths = (found > 0).sum(1)
    assert (found[:, 0] == 1).all()
    assert (found.gather(1, lengths.unsqueeze(1) - 1) == 35).all()
    assert all((row[:n] > 0).all() for row, n in zip(found, lengths, strict=True))
    assert 1 - (lengths.float().mean().item() - 2) / 33 == pytest.approx(0.2, abs=0.03)
    assert torch.equal(drop_words(ids * mask, mask, 0.0, 3, 1000), ids * mask)


def test_drop_regions_keeps_at_least_one():
    torch.manual_seed(0)
    mask = torch.rand(200, 5) < 0.5
    kept = drop_regions(mask, 0.9)
    assert not (kept & ~mask).any()
    assert torch.equal(kept.any(1), mask.any(1))


@pytest.mark.slow
def test_bert_text(tiny, check_invariances, make_images, make_captions):
    torch.manual_seed(0)
    model = models.create("hrem", **{**tiny, **SIZES, "text_encoder": "bert"})
    check_invariances(model, pieces=1000)
    model.train()
    loss = model.loss(make_images(4), make_captions(4, pieces=1000))
    loss.backward()
    assert torch.isfinite(loss)
    assert model.text.bert.embeddings.word_embeddings.weight.grad[103].abs().sum() > 0


# Training mechanics of the released code: its gradients and its sampler


@pytest.fixture(scope="module")
def training(golden):
    return golden("hrem/training")


def loss_and_gradients(fixture, inputs, **options):
    """Return our loss of given embeddings and fragments, its gradients, and the model."""
    prefix = "param." if "in.images" in fixture else "param/"
    theirs = {k.removeprefix(prefix): v for k, v in fixture.items() if k.startswith(prefix)}
    v, u, regions, words, lengths, ids = inputs
    v, u = v.clone().requires_grad_(), u.clone().requires_grad_()
    model = models.create(
        "hrem", image_dim=8, vocab_size=9, word_dim=6, embed_dim=v.shape[1], heads=4, warm_up=0,
        official_pad=True, **options,
    ).eval()  # fmt: skip
    state = {LAYOUTS["hrem"].rename(k): tensor for k, tensor in theirs.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if name.startswith(("fusion", "matching"))]
    every = torch.ones(regions.shape[:2], dtype=torch.bool)
    mask = torch.arange(words.shape[1]) < lengths.unsqueeze(1)
    loss = model.batch_loss(
        Encoded(v, regions, every), Encoded(u, words, mask), ids.unsqueeze(1) == ids
    )
    loss.backward()
    return loss.detach(), v.grad, u.grad, model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hardest", {"negatives": "hardest"}),
        ("likeliest", {"negatives": "likeliest"}),
        (
            "without_cross",
            {"negatives": "hardest", "consistency": False, "without_consistency": "released"},
        ),
    ],
)
def test_gradients_of_the_embeddings_are_the_released_ones(training, name, options):
    parts = ("images", "captions", "regions", "words", "cap_len", "img_ids")
    inputs = [training[f"in.{part}"] for part in parts]
    loss, images, captions, model = loss_and_gradients(
        training, inputs, relevance_weight=1.5, **options
    )
    assert loss.item() == pytest.approx(training[f"out.{name}.loss"].item(), rel=1e-5)
    near(images, training[f"out.{name}.grad_images"])
    near(captions, training[f"out.{name}.grad_captions"])
    if name == "hardest":
        own = dict(model.named_parameters())
        for theirs, gradient in training.items():
            if theirs.startswith("grad."):
                near(own[LAYOUTS["hrem"].rename(theirs.removeprefix("grad."))].grad, gradient)


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the numbers of the released code are elsewhere")
def test_gradients_and_weights_equal_a_second_fixture():
    with np.load(OFFICIAL) as arrays:
        fixture = {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}
    parts = ("image_embeddings", "text_embeddings", "regions", "words")
    inputs = [fixture[f"in/{part}"] for part in parts]
    inputs += [torch.full((12,), 14), torch.arange(12)]
    weight = fixture["opt/mask_weight"].item()
    loss, images, captions, _ = loss_and_gradients(
        fixture, inputs, negatives="hardest", relevance_weight=weight
    )
    assert loss.item() == pytest.approx(fixture["out/total_loss_vse"].item(), rel=1e-5)
    near(images, fixture["out/grad_image_vse"])
    near(captions, fixture["out/grad_text_vse"])
    pairs = torch.eye(8, dtype=torch.bool)
    for k in range(5):
        near(distance_weights(fixture[f"in/sim_{k}"], ~pairs, 1.7), fixture[f"out/weights_{k}"])


@pytest.mark.parametrize("k", range(5))
def test_separated_pairs_keep_their_negatives(training, k):
    scores, positives = training[f"in.sims_{k}"], training[f"in.positives_{k}"]
    near(distance_weights(scores, ~positives, 1.7), training[f"out.weights_{k}"])
    loss = sampled_triplet_loss(scores, positives, margin=0.2, far=1.7, sampled=False)
    near(loss, training[f"out.sampled_{k}"])


def test_neither_positives_nor_distant_pairs_take_the_weight_of_a_negative():
    scores = torch.tensor([[0.80, 0.65, -0.95], [0.1, 0.8, 0.2], [0.0, 0.1, 0.8]])
    weights = distance_weights(scores, ~torch.eye(3, dtype=torch.bool), 1.7)
    assert weights[0].tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert weights.sum(1).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_training_with_the_distance_sampler_ends_without_violations():
    """With the positives in the maximum of the weights, training stops with 8 % violated."""
    torch.manual_seed(0)
    truth = torch.randn(48, 12)
    images, captions = (truth @ torch.randn(12, 24) + 0.1 * torch.randn(48, 24) for _ in range(2))
    layers = [torch.nn.Linear(24, 16), torch.nn.Linear(24, 16)]
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=0.01)
    positives = torch.eye(48, dtype=torch.bool)
    for _ in range(400):
        v, u = (
            torch.nn.functional.normalize(layer(x), dim=-1)
            for layer, x in zip(layers, (images, captions), strict=True)
        )
        scores = v @ u.T
        loss = sum(
            sampled_triplet_loss(s, positives, margin=0.2, far=1.7) for s in (scores, scores.T)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hardest = scores.masked_fill(positives, -1).amax(1)
    assert int((scores.diagonal() < hardest + 0.2).sum()) == 0


@pytest.mark.parametrize("mechanism", ["fusion", "standalone"])
@pytest.mark.parametrize("official_pad", [False, True])
def test_an_image_without_regions_costs_no_nan(
    tiny, make_images, make_captions, mechanism, official_pad
):
    torch.manual_seed(0)
    model = models.create(
        "hrem", **{**tiny, **SIZES, "mechanism": mechanism, "official_pad": official_pad}
    )
    images = make_images(5)
    images.object_mask[2] = False
    loss = model.loss(images, make_captions(5))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_without_consistency_has_two_readings(tiny, make_images, make_captions):
    def loss(**options):
        torch.manual_seed(0)
        calm = {"drop_words": 0.0, "drop_regions": 0.0, "dropout": 0.0, "negatives": "hardest"}
        model = models.create("hrem", **{**tiny, **SIZES, **calm, **options}).eval()
        return model.loss(make_images(4), make_captions(4)).item()

    whole, ours = loss(), loss(consistency=False)
    released = loss(consistency=False, without_consistency="released")
    base = loss(relate_instances="none")
    assert released - ours == pytest.approx(base, rel=1e-4)
    assert ours < released < whole


def test_weights_start_as_in_the_released_code():
    torch.manual_seed(0)
    mlp = RegionProjection(2048, 1024, mlp=True).mlp
    for layer, std in ((mlp[0], (2 / (2048 + 512)) ** 0.5), (mlp[2], (2 / (512 + 1024)) ** 0.5)):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
        assert not layer.bias.any()


def test_the_text_projection_starts_as_in_the_released_code(tmp_path):
    """As nn.Linear, std 0.021 for BERT-base; Xavier has 0.033."""
    sizes = BertConfig(
        vocab_size=20, hidden_size=96, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=9,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(sizes)))
    save_file(Bert(sizes).state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(0)
    options = {"image_dim": 8, "embed_dim": 32, "text_encoder": "bert", "bert": str(tmp_path)}
    project = models.create("hrem", **options).text.project
    assert project.weight.std().item() == pytest.approx((3 * 96) ** -0.5, rel=0.05)
    assert project.weight.std().item() != pytest.approx((2 / (96 + 32)) ** 0.5, rel=0.3)
    assert project.bias.any()


def test_the_model_drops_whole_words_of_bert(make_captions):
    """Whatever is left of a caption has all pieces of its words."""
    torch.manual_seed(0)
    captions = make_captions(100, words=(9, 9), pieces=1000)
    owner = captions.piece_words
    pieces = (200 + torch.arange(owner.shape[1])).expand_as(owner).masked_fill(owner < 0, 0)
    captions = dataclasses.replace(captions, pieces=pieces)
    seen = []
    text = GivenWords(torch.zeros(0), torch.zeros(0))
    text.encode_pieces = lambda batch: seen.append(batch) or (None, None)
    text.bert = SimpleNamespace(config=SimpleNamespace(vocab_size=5))  # replacements are all 4
    model = Hrem(models.build_options("hrem", image_dim=8, embed_dim=16, text_encoder="bert"), text)
    model.train()._words(captions)
    lost = 0
    for before, words, after in zip(pieces, owner, seen[0].pieces, strict=True):
        left = set(after.tolist())
        for word in range(int(words.max()) + 1):
            there = {piece in left for piece in before[words == word].tolist()}
            assert len(there) == 1
            lost += there == {False}
    assert lost > 50


def test_a_dropped_word_loses_all_its_pieces():
    torch.manual_seed(0)
    owner = torch.tensor([0, 1, 1, 1, 2, 3, 3, 4, 5, 5, 6, -1]).repeat(4000, 1)
    mask = owner >= 0
    ids = (owner * 10 + 100).masked_fill(~mask, 0)
    found = drop_words(ids, mask, 0.2, 3, 5, owner)
    assert (found[:, 0] == 100).all()  # [CLS]
    assert (
        found.masked_fill(found == 0, -1).gather(1, (found > 0).sum(1, keepdim=True) - 1) == 160
    ).all()
    left = torch.stack([(found == 10 * word + 100).sum(1) for word in range(7)], 1)
    pieces = torch.tensor([1, 3, 1, 2, 1, 2, 1])
    assert ((left == 0) | (left == pieces)).all()
    lost = (left == 0).float().mean(0)
    assert lost[1:6].tolist() == pytest.approx([0.2] * 5, abs=0.025)
    masked = (found == 3).sum(1)
    assert set(masked.tolist()) > {0, 1, 2, 3}
