"""Checkpoints with the settings that the released code saves: options read, scores equal.

The classes here have the tensor names of the released code and score by its definition, pair by
pair; ``test_the_definition_is_that_of_the_released_code`` holds them against its numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu, normalize

import models
from features.errors import InputError
from models.nn.bert import Bert, BertConfig
from models.released.checkpoints import app, convert, load_converted

GSMN_PARTS = ("img_enc", "txt_enc", "i2t_match_G", "t2i_match_G")


class Part(nn.Module):
    """Holds modules and parameters under given names."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def weight_norm(layer):
    with warnings.catch_warnings():  # newer torch has other names for its parameters
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(layer)


def uniform(count, low=0.0, high=1.0):
    return nn.Parameter(torch.empty(count, 1).uniform_(low, high))


class ReleasedGsmn:
    """GSMN with the names of its released code; scores of one caption by definition."""

    def __init__(
        self,
        names=("graph_convolution_1", "graph_convolution_3"),
        *,
        image=16,
        width=32,
        word=12,
        blocks=4,
        kernels=3,
        hidden=12,
    ):
        self.names, self.blocks, self.width = names, blocks, width
        self.image = Part(fc=nn.Linear(image, width))
        gru = nn.GRU(word, width, batch_first=True, bidirectional=True)
        self.text = Part(embed=nn.Embedding(50, word), rnn=gru)
        each = hidden // kernels

        def side(name, **convolution):
            heads = {"out_1": hidden, "out_2": 1}
            heads = {key: weight_norm(nn.Linear(hidden, out)) for key, out in heads.items()}
            return Part(**{name: Part(**convolution)}, **heads)

        self.visual = side(
            names[0],
            conv_weights=nn.ModuleList(nn.Linear(blocks, each, bias=False) for _ in range(kernels)),
            mean_rho=uniform(kernels),
            mean_theta=uniform(kernels, -math.pi, math.pi),
            precision_rho=uniform(kernels, 0.2),
            precision_theta=uniform(kernels, 0.2),
        )
        self.textual = side(
            names[1],
            conv_weights=nn.ModuleList(nn.Linear(blocks, each) for _ in range(kernels)),
            params=uniform(kernels, -1.0),
        )

    @property
    def parts(self):
        return [self.image, self.text, self.visual, self.textual]

    def state(self):
        return [part.state_dict() for part in self.parts]

    @torch.no_grad()
    def score(self, regions, boxes, words, lengths, scale):
        """Return (I, C) scores of both graphs, each."""
        v = normalize(self.image.fc(regions), dim=-1)
        columns = []
        for ids, n in zip(words, lengths, strict=True):
            out = self.text.rnn(self.text.embed(ids[None, :n]))[0].unflatten(-1, (2, -1)).mean(2)
            u = normalize(out, dim=-1).expand(len(v), -1, -1)
            columns.append([self._image(v, u, boxes, scale), self._text(v, u, scale)])
        return [torch.stack(one, 1) for one in zip(*columns, strict=True)]

    def match(self, queries, context, scale):
        """Return the cosines of blocks between queries and what they attend to."""
        similar = leaky_relu(context @ queries.transpose(1, 2), 0.1)  # (B, context, queries)
        norm = similar.pow(2).sum(2, keepdim=True).sqrt() + 1e-8
        weights = (scale * similar / norm).softmax(1)
        mixed = weights.transpose(1, 2) @ context
        one, other = (x.unflatten(-1, (self.blocks, -1)) for x in (queries, mixed))
        lengths = one.norm(dim=-1) * other.norm(dim=-1)
        return (one * other).sum(-1) / lengths.clamp(min=1e-8)

    @staticmethod
    def head(part, hidden):
        return part.out_2(part.out_1(hidden).tanh()).squeeze(-1).mean(1)

    def _text(self, v, u, scale):
        x = self.match(u, v, scale)  # edges of a word sum to 1 over copies of itself
        layers = getattr(self.textual, self.names[1]).conv_weights
        return self.head(self.textual, torch.cat([layer(x) for layer in layers], -1))

    def _image(self, v, u, boxes, scale):
        x = self.match(v, u, scale)
        kernels = getattr(self.visual, self.names[0])
        centre = boxes[..., :2] + 0.5 * (boxes[..., 2:] - boxes[..., :2])
        offset = centre[:, :, None] - centre[:, None]  # (I, R, R, 2)
        rho, theta = offset.pow(2).sum(-1).sqrt(), torch.atan2(offset[..., 0], offset[..., 1])
        weights = []
        for k in range(len(kernels.conv_weights)):
            away = (theta - kernels.mean_theta[k]).abs()
            away = torch.minimum(away, (2 * math.pi - away).abs())
            far = (rho - kernels.mean_rho[k]).pow(2)
            weight = torch.exp(-0.5 * far / (1e-14 + kernels.precision_rho[k].pow(2)))
            turn = -0.5 * away.pow(2) / (1e-14 + kernels.precision_theta[k].pow(2))
            weights.append(weight * turn.exp())
        total = torch.stack(weights).sum(0)
        hidden = [
            layer(x) * (weight / total).nan_to_num(0.0).sum(2, keepdim=True)
            for layer, weight in zip(kernels.conv_weights, weights, strict=True)
        ]
        return self.head(self.visual, torch.cat(hidden, -1))


def parts_of(images, captions):
    return images.objects, images.boxes, captions.words, captions.lengths.tolist()


def gsmn_checkpoint(released, **settings):
    opt = {"lambda_softmax": 10.0, "is_sparse": False, "max_violation": True, "margin": 0.3}
    opt |= {"embed_size": 32, "num_block": 4, "no_imgnorm": False, "num_layers": 1}
    return {"epoch": 3, "model": released.state(), "opt": argparse.Namespace(**{**opt, **settings})}


def test_the_definition_is_that_of_the_released_code(golden):
    released = ReleasedGsmn(image=96, width=64, word=20, blocks=16, kernels=8, hidden=32)
    theirs = {}
    for name in ("images", "words", "scores"):
        theirs |= golden(f"gsmn_{name}")
    for prefix, part in zip(GSMN_PARTS, released.parts, strict=True):
        start = f"param.{prefix}."
        part.load_state_dict(
            {k.removeprefix(start): v for k, v in theirs.items() if k.startswith(start)}
        )
    inputs = [theirs[f"in.{name}"] for name in ("images", "bbox", "captions")]
    found = released.score(*inputs, theirs["in.lengths"].tolist(), 20.0)
    for one, wanted in zip(found, ("v2t_scores", "t2v_scores_dense"), strict=True):
        assert (one - theirs[f"out.{wanted}"]).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "names", [("graph_convolution_1", "graph_convolution_3"), ("vGNN", "tGNN")]
)
@pytest.mark.parametrize("scale", [10.0, 20.0])
def test_gsmn_scores_with_the_lambda_of_its_file(
    make_images, make_captions, tmp_path, capsys, scale, names
):
    torch.manual_seed(0)
    released = ReleasedGsmn(names)
    path = tmp_path / "model_best.pth.tar"
    torch.save(gsmn_checkpoint(released, lambda_softmax=scale), path)
    model = models.load_official("gsmn", path)
    o = model.options
    assert (o.scale, o.text_graph, o.margin, o.hard_negatives) == (scale, "dense", 0.3, True)
    images, captions = make_images(4, objects=(6, 6)), make_captions(7)
    wanted = sum(released.score(*parts_of(images, captions), scale))
    other = sum(released.score(*parts_of(images, captions), 30 - scale))
    with torch.no_grad():
        found = model.score(model.encode_images(images), model.encode_captions(captions))
    assert (found - wanted).abs().max() <= 2e-6
    assert (wanted - other).abs().max() > 1e-3
    assert app.call(["gsmn", str(path), str(tmp_path / "a.safetensors")]) == 0
    said = capsys.readouterr().out
    assert f"scale = {scale}: from the settings in the checkpoint" in said
    assert "embed_dim = 32: from the tensors" in said
    assert "attention_norm = 'clipped_l2norm': not in the checkpoint, our default" in said
    assert load_converted(tmp_path / "a.safetensors").options == o


def test_given_options_come_first_and_foreign_settings_are_refused():
    checkpoint = gsmn_checkpoint(ReleasedGsmn())
    converted = convert("gsmn", checkpoint, scale=7.0)
    assert converted.model.options.scale == 7.0
    assert converted.origins["scale"] == "given"
    assert convert("gsmn", checkpoint["model"]).model.options.scale == 20.0  # no settings
    checkpoint["opt"] = vars(checkpoint["opt"])
    assert convert("gsmn", checkpoint).model.options.scale == 10.0
    for setting in ("no_imgnorm", "no_txtnorm"):
        with pytest.raises(InputError, match=f"was trained with {setting} = True"):
            convert("gsmn", gsmn_checkpoint(ReleasedGsmn(), **{setting: True}))


class ReleasedHrem:
    """HREM with the names of its released code, and torch's own transformer layers."""

    def __init__(self, heads):
        def relation():
            layer = nn.TransformerEncoderLayer(64, heads, 64, 0.1)
            return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        norms = nn.ModuleList([nn.BatchNorm1d(32), nn.BatchNorm1d(64)])
        layers = nn.ModuleList([nn.Linear(16, 32), nn.Linear(32, 64)])
        self.image = Part(
            fc=Part(fc=nn.Linear(16, 64), mlp=Part(layers=layers, bns=norms)), aggr=relation()
        )
        bert = BertConfig(
            vocab_size=99,
            hidden_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
        self.text = Part(bert=Bert(bert), linear=nn.Linear(128, 64), aggr=relation())
        for part in self.parts:
            part.eval()

    @property
    def parts(self):
        return [self.image, self.text]

    def state(self):
        return [part.state_dict() for part in self.parts]

    @torch.no_grad()
    def score(self, images, captions, beta):
        regions, mask = images.objects, images.object_mask
        mlp = self.image.fc.mlp
        hidden = mlp.bns[0](mlp.layers[0](regions).flatten(0, 1)).relu()
        v = self.image.fc.fc(regions) + mlp.layers[1](hidden).view(*regions.shape[:2], -1)
        pieces = captions.piece_words >= 0
        u = self.text.linear(self.text.bert(captions.pieces, pieces))
        v, u = (
            self._pool(v, mask, self.image.aggr, beta),
            self._pool(u, pieces, self.text.aggr, beta),
        )
        return v @ u.T

    @staticmethod
    def _pool(x, mask, layer, beta):
        related = layer(x.transpose(0, 1), src_key_padding_mask=~mask).transpose(0, 1)
        rows = []
        for one, other, real in zip(x, related, mask, strict=True):
            largest = one[real].topk(min(2, int(real.sum())), 0).values.mean(0)
            rows.append(beta * largest + (1 - beta) * other[real].mean(0))
        return normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("heads", [2, 8])
def test_hrem_reads_all_options_from_its_file(make_images, make_captions, tmp_path, heads):
    torch.manual_seed(0)
    released = ReleasedHrem(heads)
    for norm in released.image.fc.mlp.bns:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    opt = argparse.Namespace(
        nhead=heads, residual_weight=0.6, dropout=0.2, num_layers_enc=2, threshold=0.4, topk=8,
        mask_weight=1.5, reg_loss_weight=5, warmup=100, margin=0.25, dataset="coco", cross_loss=0,
        base_loss="vse", gnn_loss="vse", max_violation=True, size_augment=0, mask_repeat=1,
        norm_input=1, no_imgnorm=False, embed_size=64,
    )  # fmt: skip
    path = tmp_path / "model_best.pth"
    torch.save({"model": released.state(), "opt": opt, "best_rsum": 520.0}, path)
    model = models.load_official("hrem", path)
    found = dataclasses.asdict(model.options)
    wanted = {
        "heads": heads, "beta": 0.6, "dropout": 0.2, "instance_layers": 2, "tau": 0.4, "topk": 8,
        "relevance_weight": 1.5, "regularization": 5, "warm_up": 100, "margin": 0.25, "far": 1.9,
        "consistency": False, "without_consistency": "released", "negatives": "hardest",
        "drop_regions": 0.0, "drop_words": 0.0, "official_pad": True, "mask_same_image": True,
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    images, captions = make_images(5), make_captions(6, pieces=90)
    with torch.no_grad():
        scores = model.score(model.encode_images(images), model.encode_captions(captions))
    assert (scores - released.score(images, captions, 0.6)).abs().max() <= 2e-6
    default = argparse.Namespace(base_loss="trip", dataset="f30k", cross_loss=1, size_augment=1)
    default = convert("hrem", {"model": released.state(), "opt": default}, heads=heads)
    o = default.model.options
    assert (o.negatives, o.far, o.consistency, o.drop_words) == ("distance", 1.7, True, 0.2)
