"""Layouts of released checkpoints: tensor names, and the options that follow from shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "Layout", "join_kernels"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Names of the tensors of one released model; patterns are regular expressions."""

    parts: tuple[str, ...]  # prefixes of the state dicts in a list, in their order
    names: tuple[tuple[str, str], ...]  # (pattern of their name, our name); the first match counts
    ignored: tuple[tuple[str, str], ...]  # (pattern of their name, why it has no counterpart)
    optional: tuple[str, ...]  # patterns of our names that a checkpoint may lack
    options: Callable[[Tensors], dict[str, Any]]  # reads sizes from the tensors

    def rename(self, name: str) -> str | None:
        """Return our name of a tensor; None if the layout has none."""
        for pattern, ours in self.names:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, ours, name)
        return None

    def reason(self, name: str) -> str | None:
        """Return why a tensor is left out; None if the layout does not know it."""
        return next((why for pattern, why in self.ignored if re.fullmatch(pattern, name)), None)


def _gsmn_options(state: Tensors) -> dict[str, Any]:
    kernel = "i2t_match_G.graph_convolution_1.conv_weights"
    weights = [name for name in state if name.startswith(f"{kernel}.")]
    found: dict[str, Any] = {
        "image_dim": state["img_enc.fc.weight"].shape[1],
        "embed_dim": state["img_enc.fc.weight"].shape[0],
        "vocab_size": state["txt_enc.embed.weight"].shape[0],
        "word_dim": state["txt_enc.embed.weight"].shape[1],
        "bidirectional": "txt_enc.rnn.weight_ih_l0_reverse" in state,
        "propagation": "official",
    }
    if weights:
        kernel_dim, blocks = state[weights[0]].shape
        found |= {"kernels": len(weights), "kernel_dim": kernel_dim, "blocks": blocks}
    return found


_NORM = r"parametrizations\.weight\.original"  # of weight normalisation in new versions of torch

GSMN = Layout(
    parts=("img_enc", "txt_enc", "i2t_match_G", "t2i_match_G"),
    names=(
        (r"img_enc\.fc\.(weight|bias)", r"region_layer.\1"),
        (r"txt_enc\.embed\.weight", "word_table.weight"),
        (r"txt_enc\.rnn\.(.+)", r"word_rnn.rnn.\1"),
        (r"i2t_match_G\.graph_convolution_1\.((mean|precision)_(rho|theta))", r"polar.0.\1"),
        (
            r"i2t_match_G\.graph_convolution_1\.conv_weights\.(\d+)\.weight",
            r"region_layers.0.weight#\1",
        ),
        (
            r"t2i_match_G\.graph_convolution_3\.conv_weights\.(\d+)\.(weight|bias)",
            r"word_layers.0.\2#\1",
        ),
        (r"t2i_match_G\.graph_convolution_3\.params", "word_layers.0.scale"),
        *(
            (rf"{side}\.{theirs}\.{tensor}", f"{head}.{layer}.{ours}")
            for side, head in (("i2t_match_G", "region_head"), ("t2i_match_G", "word_head"))
            for theirs, layer in (("out_1", "inner"), ("out_2", "outer"))
            for tensor, ours in (
                ("bias", "bias"),
                (rf"(?:weight_g|{_NORM}0)", "parametrizations.weight.original0"),
                (rf"(?:weight_v|{_NORM}1)", "parametrizations.weight.original1"),
            )
        ),
    ),
    ignored=((r"t2i_match_G\.graph_convolution_3\.params", "cancels when edges are normalised"),),
    optional=(),
    options=_gsmn_options,
)


def _hrem_options(state: Tensors) -> dict[str, Any]:
    width, inputs = state["img_enc.fc.fc.weight"].shape
    return {
        "image_dim": inputs,
        "embed_dim": width,
        "text_encoder": "bert" if "txt_enc.linear.weight" in state else "gru",
        "image_mlp": "img_enc.fc.mlp.layers.0.weight" in state,
        "relate_regions": any(name.startswith("img_enc.aggr.") for name in state),
        "relate_words": any(name.startswith("txt_enc.aggr.") for name in state),
        "official_pad": True,
    }


HREM = Layout(
    parts=("img_enc", "txt_enc", "criterion"),
    names=(
        (r"img_enc\.fc\.fc\.(.+)", r"region_layer.fc.\1"),
        (r"img_enc\.fc\.mlp\.layers\.0\.(.+)", r"region_layer.mlp.0.\1"),
        (r"img_enc\.fc\.mlp\.layers\.1\.(.+)", r"region_layer.mlp.2.\1"),
        (r"img_enc\.fc\.mlp\.bns\.0\.(.+)", r"region_layer.mlp.1.\1"),
        (r"img_enc\.aggr\.layers\.0\.(.+)", r"region_relation.\1"),
        (r"txt_enc\.aggr\.layers\.0\.(.+)", r"word_relation.\1"),
        (r"txt_enc\.linear\.(.+)", r"text.project.\1"),
        (r"txt_enc\.bert\.((?!pooler|.*position_ids).+)", r"text.bert.\1"),
        (r"txt_enc\.embed\.weight", "text.embed.weight"),
        (r"txt_enc\.rnn\.(.+)", r"text.gru.rnn.\1"),
        (r"criterion\.gnn\.layers\.(\d+)\.(.+)", r"fusion.\1.\2"),
        (r"criterion\.adj_model\.adj_learning\.mlp_(t2i|i2t)\.0\.(.+)", r"matching.\1.0.\2"),
        (r"criterion\.adj_model\.adj_learning\.mlp_(t2i|i2t)\.3\.(.+)", r"matching.\1.2.\2"),
    ),
    ignored=(
        (r"img_enc\.fc\.mlp\.bns\.1\..+", "the last layer of the MLP is not normalised"),
        (r"txt_enc\.bert\.pooler\..+", "only word features are used"),
        (r"txt_enc\.bert\..*position_ids", "positions are implicit"),
    ),
    optional=(r"fusion\..+", r"matching\..+", r".+\.num_batches_tracked"),
    options=_hrem_options,
)


def _sgm_options(state: Tensors) -> dict[str, Any]:
    def tensor(name: str) -> Tensor:
        for key, value in state.items():
            if key == name or key.endswith(f".{name}"):
                return value
        raise KeyError(name)

    words = tensor("embed.weight")
    return {
        "image_dim": tensor("obj_fusion.weight").shape[0],
        "n_labels": tensor("obj_embed.weight").shape[0],
        "n_predicates": tensor("rel_embed.weight").shape[0],
        "vocab_size": words.shape[0],
        "word_dim": words.shape[1],
        "embed_dim": tensor("net_o.weight").shape[0],
    }


SGM = Layout(
    parts=("img_enc", "txt_enc"),
    names=(
        (r"(?:\w+\.)*obj_embed\.weight", "visual.label_embed.weight"),
        (r"(?:\w+\.)*rel_embed\.weight", "visual.predicate_embed.weight"),
        (r"(?:\w+\.)*obj_fusion\.(.+)", r"visual.fusion.objects.\1"),
        (r"(?:\w+\.)*rel_fusion\.(.+)", r"visual.fusion.relations.\1"),
        (r"(?:\w+\.)*net_o\.(.+)", r"visual.layers.0.g_o.\1"),
        (r"(?:\w+\.)*net_r\.(.+)", r"visual.layers.0.g_r.\1"),
        (r"(?:\w+\.)*wrnn\.(.+)", r"text.word_gru.rnn.\1"),
        (r"(?:\w+\.)*prnn\.(.+)", r"text.path_gru.rnn.\1"),
        (r"(?:\w+\.)*embed\.weight", "text.embed.weight"),
    ),
    ignored=(),
    optional=(),
    options=_sgm_options,
)

LAYOUTS = {"gsmn": GSMN, "hrem": HREM, "sgm": SGM}


def join_kernels(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Concatenate tensors named ``name#0``, ``name#1``, ... to ``name``."""
    joined = {name: tensor for name, tensor in state.items() if "#" not in name}
    numbered: dict[str, dict[int, Tensor]] = {}
    for name in state.keys() - joined.keys():
        base, _, number = name.partition("#")
        numbered.setdefault(base, {})[int(number)] = state[name]
    for base, parts in numbered.items():
        joined[base] = torch.cat([parts[number] for number in sorted(parts)])
    return joined
