"""CFSGR: parity with the parts of SGRAF and LGSGM it is made of, invariances, ablations."""

from __future__ import annotations

import pytest
import torch

import models
from models.nn.layers import l2norm
from models.papers.cfsgr import (
    AttentionFiltration,
    Comparison,
    ConvAttention,
    GraphReasoning,
    Nodes,
    SelfAttention,
    scan_attention,
)

TINY_CFSGR = {"word_dim": 6, "embed_dim": 8, "sim_dim": 5}
PARTS = ["coarse", "fine_object", "fine_predicate"]


def full_mask(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def test_scan_attention_matches_sgraf(golden):
    z = golden("sgraf")
    images, caption = z["in.img_emb"], z["in.cap_emb"]
    words = caption[:, : int(z["in.cap_lens"][0])].repeat(len(images), 1, 1)
    attended = scan_attention(words, images, full_mask(*images.shape[:2]), 9.0)
    torch.testing.assert_close(attended, z["out.scan_attention_cap0"], atol=1e-5, rtol=0)


def test_graph_step_matches_sgraf(golden):
    z = golden("sgraf")
    reasoning = GraphReasoning(32, 1, "sgraf")
    at = "param.SGR.SGR_module.0."
    state = reasoning.state_dict()
    names = {"queries.0": "graph_query_w", "keys.0": "graph_key_w", "updates.0": "sim_graph_w"}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = z[f"{at}{theirs}.{kind}"]
    reasoning.load_state_dict(state)
    r, mask = z["in.sim_emb_sgr"], full_mask(4, 7)
    with torch.no_grad():
        every, one = reasoning.step(r, mask, 0), reasoning.step(r, mask, 0, only_global=True)
        wide = torch.cat([r, torch.zeros(4, 3, 32)], 1)
        padded = reasoning.step(wide, torch.arange(10).expand(4, 10) < 7, 0)
    torch.testing.assert_close(every, z["out.sgr_step0"], atol=1e-5, rtol=0)
    torch.testing.assert_close(one[:, 0], z["out.sgr_step0"][:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[:, :7], z["out.sgr_step0"], atol=1e-5, rtol=0)


def test_filtration_matches_sgraf(golden):
    z = golden("sgraf")
    filtration = AttentionFiltration(32).eval()
    state = filtration.state_dict()
    for name, value in z.items():
        if ".SAF_module." in name:
            part = name.split("SAF_module.")[1]
            state[part.replace("attn_sim_w", "weigh").replace("bn.", "norm.")] = value
    filtration.load_state_dict(state)
    with torch.no_grad():
        out = filtration.filtrate(z["in.sim_emb"], full_mask(4, 7))
    torch.testing.assert_close(out, z["out.saf_module"], atol=1e-5, rtol=0)


def test_eq_16_ends_in_a_linear_layer_and_a_sigmoid():
    """The printed result is the vector of ``filtrate``; scores are between 0 and 1."""
    torch.manual_seed(0)
    filtration = AttentionFiltration(6).eval()
    r, mask = torch.randn(2, 3, 4, 6), torch.arange(4) < torch.tensor([[4], [2], [1]])
    with torch.no_grad():
        vector, found = filtration.filtrate(r, mask), filtration(r, mask)
    assert (vector.shape, found.shape) == ((2, 3, 6), (2, 3))
    wanted = vector @ filtration.read.weight[0] + filtration.read.bias
    torch.testing.assert_close(found, torch.sigmoid(wanted))


def test_self_attention_matches_lgsgm(golden):
    z = golden("lgsgm")
    pool = SelfAttention(48)
    pool.load_state_dict({"theta": z["param.att.theta"]})
    nodes = torch.cat([z["in.att_x"], torch.ones(2, 48)]).unsqueeze(0)
    with torch.no_grad():
        out = pool(nodes, torch.arange(11).unsqueeze(0) < 9)
        empty = pool(nodes, torch.zeros(1, 11, dtype=torch.bool))
    torch.testing.assert_close(out[0], z["out.att"], atol=1e-5, rtol=0)
    assert (empty == 0).all()


def test_self_attention_as_printed():
    torch.manual_seed(0)
    pool, lgsgm = SelfAttention(8, "literal"), SelfAttention(8)
    lgsgm.load_state_dict(pool.state_dict())
    nodes, mask = torch.randn(2, 5, 8), torch.arange(5) < torch.tensor([[5], [3]])
    with torch.no_grad():
        found = pool(nodes, mask)
        for k, n in enumerate((5, 3)):
            x = nodes[k, :n]
            query = pool.theta @ x.mean(0).relu()
            wanted = (torch.sigmoid(x @ query)[:, None] * x).mean(0)
            torch.testing.assert_close(found[k], wanted)
        assert (found - lgsgm(nodes, mask)).abs().max() > 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_readings_of_the_pooling_and_of_the_paths_change_the_scores(
    tiny, make_images, make_captions, part
):
    def scores(captions, **options):
        torch.manual_seed(0)
        model = models.create("cfsgr", **tiny, **TINY_CFSGR, part=part, **options).eval()
        with torch.no_grad():
            codes = model.encode_images(make_images(4)), model.encode_captions(captions)
            return model.score(*codes)

    captions, bare = make_captions(4), make_captions(4, triplets=(0, 0))
    same = torch.equal(scores(captions), scores(captions, pool_query="literal"))
    assert same == (part == "fine_predicate")
    assert not torch.equal(scores(bare), scores(bare, path_state="final"))


@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_attention_ignores_padding(kernel):
    torch.manual_seed(0)
    pool = ConvAttention(8, 4, kernel)
    nodes = torch.randn(1, 4, 8)
    wide = torch.cat([nodes, torch.full((1, 2, 8), 9.0)], 1)
    expected = pool.up(pool.down(nodes.transpose(1, 2))).amax(2)
    torch.testing.assert_close(pool(wide, torch.arange(6).unsqueeze(0) < 4), expected)


@pytest.mark.parametrize("square", [True, False])
def test_comparison_equals_its_definition(square):
    torch.manual_seed(0)
    compare = Comparison(8, 5, 9.0, square=square)
    image = Nodes(l2norm(torch.randn(3, 6, 8)), full_mask(3, 6), l2norm(torch.randn(3, 8)))
    text = Nodes(l2norm(torch.randn(2, 4, 8)), full_mask(2, 4), l2norm(torch.randn(2, 8)))
    r, mask = compare(image, text)
    assert mask.all()
    for j in range(2):
        one = Nodes(*(part[j : j + 1] for part in text))
        torch.testing.assert_close(r[:, j], compare.plain(image, one), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        *({"part": part} for part in [*PARTS, "full"]),
        {"part": "coarse", "steps": 3},
        {"part": "coarse", "graph_head": "literal"},
        {"part": "fine_object", "square": False},
        {"part": "fine_predicate", "global_similarity": "neg_l1", "conv_kernel": 3},
    ],
    ids=str,
)
def test_invariances_and_the_plain_definition(
    tiny, check_invariances, make_images, make_captions, options
):
    torch.manual_seed(0)
    model = models.create("cfsgr", **tiny, **TINY_CFSGR, **options).eval()
    # A convolution wider than one node sees the order of the predicates, not of the objects.
    # Scores reach 2 here, and unit vectors of small differences carry the rounding on.
    check_invariances(model, atol=2e-6)
    with torch.no_grad():
        images = model.encode_images(make_images(5, objects=(1, 6)))
        captions = model.encode_captions(make_captions(7, words=(1, 9)))
        batched, plain = model.score(images, captions), models.reference(model, images, captions)
    torch.testing.assert_close(batched, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sentence", [True, False])
@pytest.mark.parametrize("part", [*PARTS, "full"])
def test_smallest_inputs_and_float16_features(tiny, check_edges, part, sentence):
    torch.manual_seed(0)
    options = {"part": part, "sentence_relation": sentence}
    check_edges(models.create("cfsgr", **tiny, **TINY_CFSGR, **options))


@pytest.mark.parametrize("part", PARTS)
def test_gradients(tiny, check_gradients, part):
    torch.manual_seed(0)
    check_gradients(models.create("cfsgr", **tiny, **TINY_CFSGR, part=part), samples=2)


def test_full_model_is_the_sum_of_separate_networks(tiny, make_images, make_captions):
    torch.manual_seed(0)
    full = models.create("cfsgr", **tiny, **TINY_CFSGR, part="full").eval()
    images, captions = make_images(3), make_captions(3)
    total, losses, gradients = 0, 0, {}
    for part in PARTS:
        alone = models.create("cfsgr", **tiny, **TINY_CFSGR, part=part).eval()
        own = {k: v for k, v in full.state_dict().items() if k.startswith(f"networks.{part}.")}
        alone.load_state_dict(own)
        loss = alone.loss(images, captions)
        loss.backward()
        gradients |= {name: value.grad for name, value in alone.named_parameters()}
        with torch.no_grad():
            code = alone.encode_images(images), alone.encode_captions(captions)
            total, losses = total + alone.score(*code), losses + loss
    together = full.loss(images, captions)
    together.backward()
    torch.testing.assert_close(together, losses)
    with torch.no_grad():
        code = full.encode_images(images), full.encode_captions(captions)
        torch.testing.assert_close(full.score(*code), total)
    for name, value in full.named_parameters():
        if gradients[name] is not None:
            torch.testing.assert_close(value.grad, gradients[name])


def test_clipping_together_shrinks_gradients_more_than_one_by_one(tiny, make_images, make_captions):
    """Why the published configurations train the networks one by one."""
    torch.manual_seed(0)
    full = models.create("cfsgr", **tiny, **TINY_CFSGR, part="full").eval()
    full.loss(make_images(3), make_captions(3)).backward()
    norms = [
        torch.nn.utils.get_total_norm([v.grad for v in part.parameters() if v.grad is not None])
        for part in full.parts
    ]
    limit = 0.5 * min(norms)
    together = torch.nn.utils.clip_grad_norm_(full.parameters(), limit)
    assert together > max(norms)
    assert limit / together < min(limit / norm for norm in norms)


def test_text_nodes_are_the_means_of_their_words(tiny, make_captions):
    torch.manual_seed(0)
    model = models.create("cfsgr", **tiny, **TINY_CFSGR, part="fine_object").eval()
    network = model.parts[0]
    captions = make_captions(4, triplets=(3, 3))
    with torch.no_grad():
        ends, predicates, mask = network.text_graph(captions)
        for c, p in ((0, 0), (3, 2)):
            s, r, o = captions.triplet_spans[c, p].tolist()
            length = torch.tensor([s + r + o + 2])
            path = captions.triplets[c, p : p + 1, : s + r + o + 2]
            states = network.text.path_gru(network.text.embed(path), length)[0]
            subject, predicate, object_ = (
                states[a : a + n].mean(0) for a, n in ((1, s), (1 + s, r), (1 + s + r, o))
            )
            layer = network.text_layer
            torch.testing.assert_close(ends[c, p, 0], layer.g_o(subject).tanh())
            torch.testing.assert_close(ends[c, p, 1], layer.g_o(object_).tanh())
            whole = torch.cat([subject, predicate, object_])
            torch.testing.assert_close(predicates[c, p], layer.g_r(whole).tanh())
    assert mask.tolist() == [[True] * 3 + [False]] * 4
