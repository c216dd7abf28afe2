"""Released checkpoints: layouts, sizes from shapes, clear errors, no code from files."""

from __future__ import annotations

import argparse
import dataclasses
import pickle

import numpy as np
import pytest
import torch

import models
from features.errors import InputError, MissingInput, UnknownName
from models.nn.bert import Bert, BertConfig
from models.released.checkpoints import app, convert, load_converted


def official_gsmn() -> list[dict[str, torch.Tensor]]:
    """Random weights with the names and shapes of a released GSMN, smaller."""
    torch.manual_seed(0)
    d, words, hidden, blocks = 32, 12, 12, 4

    def gru(names: str = "") -> dict[str, torch.Tensor]:
        return {
            f"rnn.{name}{end}": torch.randn(3 * d, *size) * 0.2
            for end in ("", "_reverse")
            for name, size in (
                ("weight_ih_l0", (words,)),
                ("weight_hh_l0", (d,)),
                ("bias_ih_l0", ()),
                ("bias_hh_l0", ()),
            )
        }

    def head() -> dict[str, torch.Tensor]:
        return {
            f"out_{k}.{name}": torch.randn(*size)
            for k, out in ((1, hidden), (2, 1))
            for name, size in (
                ("bias", (out,)),
                ("weight_g", (out, 1)),
                ("weight_v", (out, hidden)),
            )
        }

    polar = ("mean_rho", "mean_theta", "precision_rho", "precision_theta")
    image = {f"graph_convolution_1.{name}": torch.rand(3, 1) for name in polar}
    text = {"graph_convolution_3.params": torch.rand(3, 1)}
    for k in range(3):
        image[f"graph_convolution_1.conv_weights.{k}.weight"] = torch.randn(4, blocks)
        text[f"graph_convolution_3.conv_weights.{k}.weight"] = torch.randn(4, blocks)
        text[f"graph_convolution_3.conv_weights.{k}.bias"] = torch.randn(4)
    return [
        {"fc.weight": torch.randn(d, 16), "fc.bias": torch.randn(d)},
        {"embed.weight": torch.randn(50, words), **gru()},
        {**image, **head()},
        {**text, **head()},
    ]


def official_hrem(bert: bool = True) -> list[dict[str, torch.Tensor]]:
    """Random weights with the names of a released HREM, smaller."""
    torch.manual_seed(0)
    model = models.create("hrem", image_dim=16, embed_dim=64, heads=4)
    layer = {f"aggr.layers.0.{k}": v for k, v in model.region_relation.state_dict().items()}
    mlp = model.region_layer.mlp
    image = {f"fc.fc.{k}": v for k, v in model.region_layer.fc.state_dict().items()}
    for theirs, part in (("layers.0", mlp[0]), ("layers.1", mlp[2]), ("bns.0", mlp[1])):
        image |= {f"fc.mlp.{theirs}.{k}": v for k, v in part.state_dict().items()}
    image["fc.mlp.bns.1.weight"] = torch.ones(64)
    text = {"linear.weight": torch.randn(64, 128) * 0.1, "linear.bias": torch.randn(64), **layer}
    if bert:
        sizes = BertConfig(
            vocab_size=99,
            hidden_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
        text |= {f"bert.{k}": v for k, v in Bert(sizes).state_dict().items()}
        text["bert.pooler.dense.weight"] = torch.randn(128, 128)
        text["bert.embeddings.position_ids"] = torch.arange(40)
    return [{**image, **layer}, text]


def prefixed(parts, names):
    return {f"{n}.{k}": v for n, part in zip(names, parts, strict=False) for k, v in part.items()}


GSMN_PARTS = ("img_enc", "txt_enc", "i2t_match_G", "t2i_match_G")


def scores(model, make_images, make_captions, **captions_as):
    with torch.no_grad():
        images = model.encode_images(make_images(3))
        return model.score(images, model.encode_captions(make_captions(4, **captions_as)))


def test_every_layout_of_a_gsmn_checkpoint_loads_the_same(make_images, make_captions, tmp_path):
    parts = official_gsmn()
    flat = prefixed(parts, GSMN_PARTS)
    path = tmp_path / "model_best.pth.tar"
    best = np.float64(481.4)
    saved = {"epoch": 9, "model": parts, "best_rsum": best, "opt": argparse.Namespace(lr=2e-4)}
    torch.save(saved, path)
    parallel = [{f"module.{k}": v for k, v in part.items()} for part in parts]
    found = [
        scores(models.load_official("gsmn", checkpoint), make_images, make_captions)
        for checkpoint in (
            {"model": parts},
            parts,
            flat,
            {"model": flat},
            dict(zip(GSMN_PARTS, parts, strict=True)),
            {"model": parallel},
            {f"module.{k}": v for k, v in flat.items()},
            path,
            str(path),
        )
    ]
    assert all(torch.equal(found[0], other) for other in found)
    assert found[0].std() > 0


def test_sizes_come_from_shapes_and_options_from_the_caller():
    model = models.load_official("gsmn", official_gsmn())
    o = model.options
    assert (o.image_dim, o.embed_dim, o.vocab_size, o.word_dim) == (16, 32, 50, 12)
    assert (o.kernels, o.kernel_dim, o.blocks, o.propagation) == (3, 4, 4, "official")
    assert not model.training
    options = models.load_official("gsmn", official_gsmn(), propagation="paper", scale=10).options
    assert (options.propagation, options.scale) == ("paper", 10.0)


def test_report_names_every_tensor_of_the_checkpoint():
    parts = official_gsmn()
    converted = convert("gsmn", parts)
    named = [theirs for theirs, _ in (*converted.matched, *converted.ignored)]
    assert sorted(named) == sorted(prefixed(parts, GSMN_PARTS))
    assert converted.ignored[0][0] == "t2i_match_G.graph_convolution_3.params"
    assert not converted.fresh
    scaled = convert("gsmn", parts, text_kernel_norm="none")
    assert not scaled.ignored
    assert torch.equal(
        scaled.model.word_layers[0].scale, parts[3]["graph_convolution_3.params"][:, 0]
    )


def test_hrem_with_its_bert(make_images, make_captions):
    converted = convert("hrem", official_hrem(), heads=4)
    model = converted.model
    assert model.text.bert.config.hidden_size == 128
    assert {why for _, why in converted.ignored} == {
        "the last layer of the MLP is not normalised",
        "only word features are used",
        "positions are implicit",
    }
    assert all(name.startswith(("fusion.", "matching.")) for name in converted.fresh)
    assert scores(model, make_images, make_captions, pieces=90).std() > 0


def test_hrem_without_bert_says_what_is_missing():
    with pytest.raises(InputError, match="bert=FOLDER"):
        models.load_official("hrem", official_hrem(bert=False), heads=4)


def test_sgm_names(golden):
    parts = [golden("sgm_visual"), golden("sgm_text")]
    state = {
        k.removeprefix("param."): v
        for part in parts
        for k, v in part.items()
        if k.startswith("param.")
    }
    model = models.load_official("sgm", state)
    assert torch.equal(model.visual.layers[0].g_r.weight, state["net_r.weight"])
    assert torch.equal(model.text.path_gru.rnn.weight_hh_l0, state["prnn.weight_hh_l0"])
    nested = {"img_enc": {}, "txt_enc": {}}
    for key, value in state.items():
        side = "txt_enc" if key.startswith(("embed.", "wrnn.", "prnn.")) else "img_enc"
        nested[side][key] = value
    again = models.load_official("sgm", {"model": list(nested.values())}).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_tensors_that_do_not_fit_are_named():
    parts = official_gsmn()
    parts[2]["surprise"] = torch.zeros(1)
    del parts[3]["out_1.bias"]
    with pytest.raises(InputError) as caught:
        models.load_official("gsmn", parts)
    assert "unknown: i2t_match_G.surprise" in str(caught.value)
    assert "missing: word_head.inner.bias" in str(caught.value)
    parts = official_gsmn()
    parts[1]["rnn.bias_hh_l0"] = torch.zeros(7)
    with pytest.raises(InputError, match=r"word_rnn.rnn.bias_hh_l0 is \(7,\), expected \(96,\)"):
        models.load_official("gsmn", parts)


def test_foreign_content_is_rejected(tmp_path):
    with pytest.raises(InputError, match="not a released gsmn checkpoint"):
        models.load_official("gsmn", {"model": {"fc.weight": torch.zeros(2, 2)}})
    with pytest.raises(InputError, match="5 state dicts"):
        models.load_official("gsmn", [{}] * 5)
    with pytest.raises(InputError, match="holds a int"):
        models.load_official("gsmn", {"model": 3})
    with pytest.raises(UnknownName, match="gsmn, hrem, sgm"):
        models.load_official("racg", {})
    with pytest.raises(MissingInput):
        models.load_official("gsmn", tmp_path / "none.pth.tar")


class Trap:
    """Runs code when unpickled carelessly."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


def test_code_in_a_checkpoint_never_runs(tmp_path):
    path = tmp_path / "evil.pth.tar"
    torch.save({"model": official_gsmn(), "opt": Trap()}, path)
    with pytest.raises(InputError, match="without running its code"):
        models.load_official("gsmn", path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="without running its code"):
        models.load_official("gsmn", path)


def test_torch_2_4_reads_checkpoints_too(tmp_path, monkeypatch):
    """It lacks the context manager; objects that are allowed stay so in the process."""
    monkeypatch.delattr(torch.serialization, "safe_globals")
    path = tmp_path / "a.pth.tar"
    torch.save({"model": official_gsmn(), "opt": argparse.Namespace(lr=1)}, path)
    try:
        assert len(list(models.load_official("gsmn", path).parameters())) > 5
        torch.save({"model": official_gsmn(), "opt": Trap()}, path)
        with pytest.raises(InputError, match="without running its code"):
            models.load_official("gsmn", path)
    finally:
        torch.serialization.clear_safe_globals()


@pytest.mark.parametrize("name", ["gsmn", "hrem"])
def test_command_line_writes_a_loadable_file(name, tmp_path, capsys, make_images, make_captions):
    parts = official_gsmn() if name == "gsmn" else official_hrem()
    path, out = tmp_path / "a.pth.tar", tmp_path / "a.safetensors"
    torch.save({"model": parts}, path)
    extra = ["--option", "heads=4", "--option", "relevance_distance=squared"]
    assert app.call([name, str(path), str(out), *(extra if name == "hrem" else [])]) == 0
    said = capsys.readouterr().out
    assert "img_enc.fc" in said
    assert f"wrote {out}" in said
    again = load_converted(out)
    model = models.load_official(name, path, **({"heads": 4} if name == "hrem" else {}))
    pieces = {"pieces": 90} if name == "hrem" else {}
    one = scores(model, make_images, make_captions, **pieces)
    assert torch.equal(one, scores(again, make_images, make_captions, **pieces))
    if name == "hrem":
        assert dataclasses.asdict(again.options)["relevance_distance"] == "squared"
    with pytest.raises(MissingInput):
        load_converted(tmp_path / "none.safetensors")
