"""Region features from the backbones of timm, for example EfficientNet-b5.

A ``state_dict`` is loaded here instead of by timm: with ``weights_only``, so that no file can run
code, and with an error for weights of another network, which timm would ignore.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.convert import need_file, read_json
from features.errors import ConfigError, InputError, MissingDependency, UnknownName, UsageError
from features.format import hash_file
from pipeline.vision.extraction import PooledExtractor
from pipeline.vision.extractors.networks import pool_map
from pipeline.vision.images import LazyImage
from pipeline.vision.onnx_spec import InputSpec

Float = npt.NDArray[np.float32]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder; the first that exists


class TimmFeatures(PooledExtractor):
    """The last feature map of a timm backbone, pooled by RoIAlign (EfficientNet-b5: 2048 numbers).

    Input size, mean and standard deviation are those of the network's training.

    Args:
    path: ``NAME`` for timm's weights from the hub, ``NAME=WEIGHTS`` for a file
            (``.safetensors`` or a state_dict of torch), or a folder written by timm's
            ``save_for_hf``. For example ``--features timm:efficientnet_b5``.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        if not path:
            raise UsageError(
                "features 'timm' need a network: --features timm:NAME, timm:NAME=WEIGHTS or "
                "timm:FOLDER; for example timm:efficientnet_b5."
            )
        self.model, _, weights = str(path).partition("=")
        self.weights = Path(weights) if weights else None
        self.config: Mapping[str, Any] = {}
        if not weights and Path(self.model).is_dir():
            self._read_folder(Path(self.model))

    def _read_folder(self, folder: Path) -> None:
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
            raise ConfigError(
                f"{folder / 'config.json'}: not written by timm, 'architecture' is missing."
            )
        self.config, self.model = config, config["architecture"]
        found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
        if not found:
            raise InputError(f"{folder}: no weights file ({' or '.join(WEIGHTS)}).")
        self.weights = found[0]

    def identity(self) -> dict[str, object]:
        """Return name, version, model, used configuration and the hash of a weights file."""
        weights = "hub" if self.weights is None else hash_file(self.weights)
        return {
            "name": "timm",
            "version": 1,
            "model": self.model,
            "weights": weights,
            "config": {key: self.config[key] for key in _USED if key in self.config},
        }

    @cached_property
    def loaded(self) -> tuple[Any, InputSpec]:
        """The network without its classifier, and its input.

        Raises:
            MissingDependency: timm is missing, or its torchvision does not match torch.
            UnknownName: timm has no such network.
            InputError: the weights cannot be loaded, or belong to another network.
        """
        try:
            import timm  # optional; loads torch
        except (ImportError, RuntimeError) as error:
            raise MissingDependency.of("timm", "--features timm", "pip install timm") from error
        if not timm.is_model(self.model):
            raise UnknownName.of("timm network", self.model, timm.list_models())
        given = {"num_classes": 0, **self.config.get("model_args", {})}
        try:
            network = timm.create_model(self.model, pretrained=self.weights is None, **given)
        except Exception as error:  # errors of the hub and of networks have no common base
            raise InputError(
                f"{self.model}: timm cannot load it ({error}). To use a weights file, pass "
                "--features timm:NAME=WEIGHTS."
            ) from error
        if self.weights is not None:
            _load(network, self.weights)
        trained = {**network.pretrained_cfg, **self.config.get("pretrained_cfg", {})}
        return network.eval(), _input(trained)

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes, (n, C)."""
        import torch  # loads torch

        network, spec = self.loaded
        tensor, fit = spec.prepare(image)
        with torch.inference_mode():
            values = network.forward_features(torch.from_numpy(tensor))[0].float().numpy()
        return pool_map(_as_map(values, network), fit.to_input(boxes), spec.size)


_USED = ("architecture", "model_args", "pretrained_cfg")


def _input(trained: Mapping[str, Any]) -> InputSpec:
    """Return the input of the network's training."""
    _, height, width = trained["input_size"]
    mean, std = ([255 * float(value) for value in trained[key]] for key in ("mean", "std"))
    pad = round(sum(mean) / len(mean))
    size = (int(width), int(height))
    return InputSpec(size, "letterbox", pad, "rgb", tuple(mean), tuple(std), "nchw", "float32")


def _load(network: Any, path: Path) -> None:
    """Load weights from a file; those of a classifier are ignored.

    Raises: MissingInput: no such file. InputError: not weights, or those of another network.
    """
    import torch  # loads torch

    need_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # optional

            state: dict[str, Any] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        for inner in ("state_dict", "model"):
            state = state.get(inner, state)
        state = {name.removeprefix("module."): values for name, values in state.items()}
        missing = network.load_state_dict(state, strict=False).missing_keys
    except Exception as error:  # pickle, safetensors and torch have no common base error
        raise InputError(f"{path}: not weights of this network ({error}).") from error
    if missing:
        raise InputError(
            f"{path}: not weights of this network; {len(missing)} are missing, for example "
            f"{missing[0]!r}."
        )


def _as_map(values: Float, network: Any) -> Float:
    """Return the features of one image as (C, H, W).

    Args:
        values: (C, H, W), (H, W, C), or (tokens, C) with the class tokens first.
    """
    channels = int(network.num_features)
    if values.ndim == 3 and values.shape[0] == channels:
        return values
    if values.ndim == 3 and values.shape[2] == channels:
        return np.ascontiguousarray(values.transpose(2, 0, 1))
    if values.ndim != 2:
        raise ConfigError(f"{type(network).__name__}: features {values.shape} are not a map.")
    patches = values[int(getattr(network, "num_prefix_tokens", 0)) :]
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    height, width = grid or [math.isqrt(len(patches))] * 2
    if height * width != len(patches):
        raise ConfigError(f"{type(network).__name__}: {len(patches)} tokens do not form a map.")
    return np.ascontiguousarray(patches.reshape(height, width, -1).transpose(2, 0, 1))
