"""Layouts of released checkpoints: tensor names, and options from shapes and saved settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from features.errors import InputError
from features.yaml_text import own_yaml

Tensors = Mapping[str, Tensor]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Tensor names of one released model, as ``layouts.yaml`` explains them."""

    parts: list[str]
    names: dict[str, str]
    ignored: dict[str, str]
    optional: list[str]
    sizes: dict[str, tuple[str, int]]
    saved: dict[str, str]
    unread: dict[str, Any]
    others: Callable[[Tensors], dict[str, Any]]  # options that are no sizes
    choices: Callable[[Settings], dict[str, Any]]  # options with other values than the settings

    def options(self, state: Tensors) -> dict[str, Any]:
        """Return the options that follow from the tensors. Raises: KeyError: one is missing."""
        found = {}
        for option, (name, axis) in self.sizes.items():
            key = next((key for key in state if f".{key}".endswith(f".{name}")), name)
            found[option] = state[key].shape[axis]
        return found | self.others(state)

    def read_settings(self, settings: Settings, source: str) -> dict[str, Any]:
        """Return the options that follow from the settings saved beside the weights.

        Raises: InputError: the weights were trained with a setting that our model does not have.
        """
        for name, ours in self.unread.items():
            if settings.get(name, ours) != ours:
                raise InputError(
                    f"{source}: was trained with {name} = {settings[name]!r}, which this model "
                    f"does not have; it can only load weights trained with {ours!r}."
                )
        found = {ours: settings[name] for name, ours in self.saved.items() if name in settings}
        return found | self.choices(settings)

    def rename(self, name: str) -> str | None:
        """Return our name of a tensor; None if the layout has none."""
        found = ((re.fullmatch(pattern, name), ours) for pattern, ours in self.names.items())
        return next((match.expand(ours) for match, ours in found if match), None)

    def reason(self, name: str) -> str | None:
        """Return why a tensor is left out; None if the layout does not know it."""
        reasons = self.ignored.items()
        return next((why for pattern, why in reasons if re.fullmatch(pattern, name)), None)


def _gsmn_options(state: Tensors) -> dict[str, Any]:
    kernel = r"i2t_match_G\.(graph_convolution_1|vGNN)\.conv_weights\..+"  # two versions of it
    weights = [name for name in state if re.fullmatch(kernel, name)]
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


def _gsmn_choices(settings: Settings) -> dict[str, Any]:
    if "is_sparse" not in settings:
        return {}
    return {"text_graph": "sparse" if settings["is_sparse"] else "dense"}


def _hrem_choices(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "dataset" in settings:
        found["far"] = 1.9 if settings["dataset"] == "coco" else 1.7
    if "cross_loss" in settings:
        found |= {"consistency": bool(settings["cross_loss"]), "without_consistency": "released"}
    if settings.get("base_loss") == "vse":
        hard = settings.get("max_violation", True)  # off in the first epoch only
        found["negatives"] = "hardest" if hard else "all"
    elif "base_loss" in settings:
        found["negatives"] = "distance"
    if "size_augment" in settings:
        share = 0.2 if settings["size_augment"] else 0.0
        found |= {"drop_regions": share, "drop_words": share}
    if "mask_repeat" in settings:
        found["mask_same_image"] = bool(settings["mask_repeat"])
    return found


OTHERS = {"gsmn": _gsmn_options, "hrem": _hrem_options, "sgm": lambda _: {}}
CHOICES = {"gsmn": _gsmn_choices, "hrem": _hrem_choices, "sgm": lambda _: {}}
LAYOUTS = {
    name: Layout(**table, others=OTHERS[name], choices=CHOICES[name])
    for name, table in own_yaml(Path(__file__).with_suffix(".yaml")).items()
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
