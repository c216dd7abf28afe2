"""Layouts of released checkpoints: tensor names, and the options that follow from shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Tensor names of one released model, as ``layouts.yaml`` explains them."""

    parts: list[str]
    names: dict[str, str]
    ignored: dict[str, str]
    optional: list[str]
    sizes: dict[str, tuple[str, int]]
    others: Callable[[Tensors], dict[str, Any]]  # options that are no sizes

    def options(self, state: Tensors) -> dict[str, Any]:
        """Return the options that follow from the tensors. Raises: KeyError: one is missing."""
        found = {}
        for option, (name, axis) in self.sizes.items():
            key = next((key for key in state if f".{key}".endswith(f".{name}")), name)
            found[option] = state[key].shape[axis]
        return found | self.others(state)

    def rename(self, name: str) -> str | None:
        """Return our name of a tensor; None if the layout has none."""
        found = ((re.fullmatch(pattern, name), ours) for pattern, ours in self.names.items())
        return next((match.expand(ours) for match, ours in found if match), None)

    def reason(self, name: str) -> str | None:
        """Return why a tensor is left out; None if the layout does not know it."""
        reasons = self.ignored.items()
        return next((why for pattern, why in reasons if re.fullmatch(pattern, name)), None)


def _gsmn_options(state: Tensors) -> dict[str, Any]:
    kernel = "i2t_match_G.graph_convolution_1.conv_weights"
    weights = [name for name in state if name.startswith(f"{kernel}.")]
    found: dict[str, Any] = {
        "bidirectional": "txt_enc.rnn.weight_ih_l0_reverse" in state,
        "propagation": "official",
    }
    if weights:
        kernel_dim, blocks = state[weights[0]].shape
        found |= {"kernels": len(weights), "kernel_dim": kernel_dim, "blocks": blocks}
    return found


def _hrem_options(state: Tensors) -> dict[str, Any]:
    return {
        "text_encoder": "bert" if "txt_enc.linear.weight" in state else "gru",
        "image_mlp": "img_enc.fc.mlp.layers.0.weight" in state,
        "relate_regions": any(name.startswith("img_enc.aggr.") for name in state),
        "relate_words": any(name.startswith("txt_enc.aggr.") for name in state),
        "official_pad": True,
    }


OTHERS = {"gsmn": _gsmn_options, "hrem": _hrem_options, "sgm": lambda _: {}}
LAYOUTS = {
    name: Layout(**table, others=OTHERS[name])
    for name, table in yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    ).items()
}


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
