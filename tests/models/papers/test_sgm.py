"""SGM: parity with a transcription of the released code, invariances, ablations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import models
from features.batches.batch import CaptionBatch, ImageBatch
from features.errors import ConfigError

TINY_SGM = {"word_dim": 6, "embed_dim": 8}


def ragged(rows, counts, width, fill=0):
    """Split flat rows into a padded (n, width, ...) tensor and its mask."""
    parts = rows.split(counts.tolist())
    out = rows.new_full((len(parts), width, *rows.shape[1:]), fill)
    mask = torch.zeros(len(parts), width, dtype=torch.bool)
    for i, part in enumerate(parts):
        out[i, : len(part)] = part
        mask[i, : len(part)] = True
    return out, mask


def fixture_images(z) -> ImageBatch:
    objects, object_mask = ragged(z["in.obj"], z["in.obj_nums"], 7)
    labels, _ = ragged(z["in.obj_labels"], z["in.obj_nums"], 7)
    unions, relation_mask = ragged(z["in.pred"], z["in.pred_nums"], 4)
    first = torch.cat([torch.zeros(1, dtype=torch.int64), z["in.obj_nums"].cumsum(0)[:-1]])
    spo, _ = ragged(z["in.rels_s_p_o"], z["in.pred_nums"], 4)
    pairs = (spo[..., [0, 2]] - first.view(-1, 1, 1)) * relation_mask.unsqueeze(-1)
    n = len(objects)
    return ImageBatch(
        rows=torch.arange(n),
        objects=objects,
        object_mask=object_mask,
        boxes=torch.zeros(n, 7, 4),
        labels=labels,
        scores=torch.ones(n, 7),
        unions=unions,
        union_boxes=torch.zeros(n, 4, 4),
        relations=pairs,
        predicates=spo[..., 1],
        relation_mask=relation_mask,
        sizes=torch.ones(n, 2),
    )


def fixture_captions(z) -> CaptionBatch:
    words, lengths = z["in.captions"], z["in.lengths"]
    triplets, mask = ragged(z["in.triplets"], z["in.triplet_nums"], 3)
    inner, _ = ragged(z["in.triplet_lens"] - 2, z["in.triplet_nums"], 3)
    spans = torch.stack([inner - 2, torch.ones_like(inner), torch.ones_like(inner)], -1)
    word_mask = torch.arange(words.shape[1]) < lengths.unsqueeze(1)
    return CaptionBatch(
        rows=torch.arange(len(words)),
        image_rows=torch.arange(len(words)),
        words=words,
        word_mask=word_mask,
        tags=torch.zeros_like(words),
        roles=torch.zeros_like(words),
        heads=torch.full_like(words, -1),
        triplets=triplets,
        triplet_spans=spans * mask.unsqueeze(-1),
    )


@pytest.fixture(scope="module")
def fixture_sgm(golden):
    visual, text = golden("sgm_visual"), golden("sgm_text")

    def build(**options):
        model = models.create(
            "sgm",
            image_dim=64,
            vocab_size=50,
            n_labels=12,
            n_predicates=8,
            word_dim=20,
            embed_dim=48,
            fusion_act="relu",
            image_norm=False,
            **options,
        )
        names = {
            "obj_embed": "visual.label_embed",
            "rel_embed": "visual.predicate_embed",
            "obj_fusion": "visual.fusion.objects",
            "rel_fusion": "visual.fusion.relations",
            "net_o": "visual.layers.0.g_o",
            "net_r": "visual.layers.0.g_r",
            "embed": "text.embed",
            "wrnn": "text.word_gru.rnn",
            "prnn": "text.path_gru.rnn",
        }
        state = {}
        for key, value in {**visual, **text}.items():
            if key.startswith("param."):
                _, part, rest = key.split(".", 2)
                state[f"{names[part]}.{rest}"] = value
        model.load_state_dict(state)
        return model.eval(), fixture_images(visual), fixture_captions(text), {**visual, **text}

    return build


@pytest.mark.parametrize("norm", [True, False])
def test_matches_a_transcription_of_the_released_code(fixture_sgm, norm):
    model, images, captions, z = fixture_sgm(text_norm=norm)
    kind = "txtnorm" if norm else "notxtnorm"
    with torch.no_grad():
        image, caption = model.encode_images(images), model.encode_captions(captions)
        scores = model.score(image, caption)
        objects_only = model.score(
            image._replace(relation_mask=image.relation_mask & False), caption
        )
        plain = models.reference(model, image, caption)
    torch.testing.assert_close(image.objects, z["out.img_obj"], atol=1e-5, rtol=0)
    torch.testing.assert_close(image.relations, z["out.img_rel"], atol=1e-5, rtol=0)
    torch.testing.assert_close(objects_only, z[f"out.S_o_{kind}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, z[f"out.S_{kind}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(plain, z[f"out.S_{kind}"], atol=1e-5, rtol=0)
    if norm:
        torch.testing.assert_close(caption.words, z["out.words_txtnorm"], atol=1e-5, rtol=0)


VARIANTS = ["sgm", "oom", "oom_no_context", "oom_visual_relations", "oom_text_relations"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_invariances_and_smallest_inputs(tiny, check_invariances, check_edges, variant):
    torch.manual_seed(0)
    model = models.create("sgm", **tiny, **TINY_SGM, variant=variant)
    check_invariances(model)
    check_edges(model)


@pytest.mark.parametrize(
    "options", [{}, {"share_fusion": True, "gcn_layers": 2}, {"hard_negatives": False}]
)
def test_gradients(tiny, check_gradients, options):
    torch.manual_seed(0)
    check_gradients(models.create("sgm", **tiny, **TINY_SGM, **options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_batched_scores_equal_the_plain_definition(tiny, make_images, make_captions, variant):
    torch.manual_seed(0)
    model = models.create("sgm", **tiny, **TINY_SGM, variant=variant).eval()
    with torch.no_grad():
        images = model.encode_images(make_images(5, objects=(1, 6)))
        captions = model.encode_captions(make_captions(7))
        batched, plain = model.score(images, captions), models.reference(model, images, captions)
    torch.testing.assert_close(batched, plain, atol=1e-6, rtol=0)


def test_sentence_relation_gives_captions_without_triplets_a_relation_level(
    tiny, make_images, make_captions
):
    torch.manual_seed(0)
    captions = make_captions(3, triplets=(0, 0))
    images = make_images(3, relations=(1, 4))
    scores = []
    for sentence in (True, False):
        torch.manual_seed(0)
        model = models.create("sgm", **tiny, **TINY_SGM, sentence_relation=sentence).eval()
        with torch.no_grad():
            code = model.encode_captions(captions)
            scores.append(model.score(model.encode_images(images), code))
        assert code.path_mask.sum(1).tolist() == [int(sentence)] * 3
    assert (scores[0] != scores[1]).all()


def test_a_relation_sees_its_subject_and_object_but_no_other_object(tiny, make_images):
    torch.manual_seed(0)
    model = models.create("sgm", **tiny, **TINY_SGM).eval()
    images = make_images(1, objects=(6, 6), relations=(2, 2))
    images.relations[0] = torch.tensor([[0, 1], [2, 3]])
    with torch.no_grad():
        before = model.encode_images(images).relations[0]
        images.objects[0, 1] += 1.0  # object of relation 0
        images.objects[0, 5] += 1.0  # of none
        after = model.encode_images(images).relations[0]
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_ablations_have_no_layer_that_nothing_reads(tiny, make_images, make_captions):
    """Whatever the variant, every parameter has a gradient."""
    counts = {}
    for variant in VARIANTS:
        torch.manual_seed(0)
        model = models.create("sgm", **tiny, **TINY_SGM, variant=variant)
        model.loss(make_images(4, relations=(2, 4)), make_captions(4, triplets=(2, 3))).backward()
        assert not [name for name, value in model.named_parameters() if value.grad is None]
        counts[variant] = len(model.state_dict())
        assert model.reads_unions == (variant in ("sgm", "oom_visual_relations"))
    assert counts["sgm"] - counts["oom"] == 13
    images = make_images(2)
    bare = dataclasses.replace(images, unions=images.unions[:, :, :0])
    model = models.create("sgm", **tiny, **TINY_SGM, variant="oom").eval()
    assert model.encode_images(bare).relations.shape[1] == 0


def test_the_final_state_of_a_path_reads_the_path_backwards(tiny, make_captions):
    torch.manual_seed(0)
    captions = make_captions(4, triplets=(2, 2))
    codes = {}
    for state in ("end", "final"):
        torch.manual_seed(0)
        model = models.create("sgm", **tiny, **TINY_SGM, path_state=state, text_norm=False).eval()
        with torch.no_grad():
            codes[state] = model.encode_captions(captions).paths
    rnn, embed = model.text.path_gru.rnn, model.text.embed
    backward = {"end": set(), "final": set()}
    for c in range(4):
        for p in range(2):
            length = int(captions.triplet_spans[c, p].sum()) + 2
            with torch.no_grad():
                out = rnn(embed(captions.triplets[c, p, :length])[None])[0][0]
            forward = out[-1, :8]
            for state, place in (("end", -1), ("final", 0)):
                wanted = (forward + out[place, 8:]) / 2
                torch.testing.assert_close(codes[state][c, p], wanted)
                backward[state].add(tuple(round(x, 5) for x in out[place, 8:].tolist()))
    assert len(backward["end"]) == 1  # the same for every triplet, as released
    assert len(backward["final"]) == 8
    sentence = codes["final"][:, 2]
    words = model.text.word_gru.rnn
    for c in range(4):
        n = int(captions.lengths[c])
        with torch.no_grad():
            out = words(embed(captions.words[c, :n])[None])[0][0]
        torch.testing.assert_close(sentence[c], (out[-1, :8] + out[0, 8:]) / 2)


def test_init_words_and_labels(tiny):
    model = models.create("sgm", **tiny, **TINY_SGM)
    start = model.text.embed.weight[3].clone()
    vectors = np.arange(300.0).reshape(50, 6)
    vectors[3] = np.nan
    model.init_words(vectors)
    model.init_labels(np.full((12, 6), 2.0), np.full((8, 6), 3.0))
    assert model.text.embed.weight[4].tolist() == vectors[4].tolist()
    assert torch.equal(model.text.embed.weight[3], start)
    assert (model.visual.predicate_embed.weight == 3).all()
    with pytest.raises(ConfigError, match="word_dim to 7"):
        model.init_words(np.zeros((50, 7)))
