"""The YAML file that describes an ONNX model: its input, and what its outputs mean.

::

    model: yolo.onnx                # relative to the YAML, or an absolute path
    input:
      size: [640, 640]              # width, height
      resize: letterbox             # letterbox (top-left), centre (letterbox, centred), stretch
      pad: 114                      # value of the padding, before normalisation
      colour: rgb                   # rgb or bgr
      mean: [0, 0, 0]               # subtracted from values 0..255, in the order of ``colour``
      std: [255, 255, 255]
      layout: nchw                  # nchw or nhwc
      type: float32                 # float32, or uint8 without mean and std

The further keys of detectors and extractors are described in ``detectors.onnx_model`` and
``extractors.networks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.convert import need_file
from features.errors import ConfigError, InputError
from features.format import hash_file
from features.yaml_text import parse_yaml
from pipeline.vision.images import LazyImage

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fit:
    """Position of the image in the network's input: input = image * scale + shift."""

    scale: tuple[float, float]  # x, y
    shift: tuple[float, float]

    def to_input(self, boxes: Float) -> Float:
        """Convert boxes in image pixels to input pixels."""
        moved = boxes * np.tile(self.scale, 2) + np.tile(self.shift, 2)
        return np.asarray(moved, np.float32)

    def to_image(self, boxes: Float) -> Float:
        """Convert boxes in input pixels to image pixels."""
        moved = (boxes - np.tile(self.shift, 2)) / np.tile(self.scale, 2)
        return np.asarray(moved, np.float32)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How an image becomes the network's input; the module docstring describes the fields."""

    size: tuple[int, int]
    resize: str
    pad: float
    colour: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    type: str

    def prepare(self, image: LazyImage) -> tuple[npt.NDArray[Any], Fit]:
        """Return the input tensor, a batch of one, and the image's position in it.

        Large images are decoded at no less than twice the input's size and resized from there.
        """
        from PIL import Image  # loads Pillow

        (width, height), (w, h) = image.size, self.size
        scale = (w / width, h / height)
        if self.resize != "stretch":
            scale = (min(scale), min(scale))
        inside = [max(1, round(width * scale[0])), max(1, round(height * scale[1]))]
        left, top = (
            ((w - inside[0]) // 2, (h - inside[1]) // 2) if self.resize == "centre" else (0, 0)
        )
        pixels, factor = image.reduced(0.5 / max(scale))
        small = Image.fromarray(pixels).resize(
            (inside[0], inside[1]),
            Image.Resampling.BILINEAR,
            box=(0, 0, width / factor, height / factor),
        )
        canvas = np.full((h, w, 3), self.pad, np.float32)
        canvas[top : top + inside[1], left : left + inside[0]] = np.asarray(small)
        if self.colour == "bgr":
            canvas = canvas[..., ::-1]
        if self.type == "uint8":
            tensor: npt.NDArray[Any] = canvas.astype(np.uint8)
        else:
            tensor = (canvas - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.layout == "nchw":
            tensor = tensor.transpose(2, 0, 1)
        return np.ascontiguousarray(tensor[None]), Fit(scale, (float(left), float(top)))


@dataclass(frozen=True)
class OnnxSpec:
    """A model description: its path, the model's path, the input, and all keys of the YAML."""

    path: Path
    model: Path
    input: InputSpec
    keys: Mapping[str, Any]

    def identity(self) -> dict[str, object]:
        """Return the hashes of description and weights."""
        return {"description": hash_file(self.path), "weights": hash_file(self.model)}

    def check_keys(self, *names: str) -> None:
        """Check that the YAML has no keys but ``names``.

        Raises: ConfigError: an unknown key.
        """
        unknown = sorted(set(self.keys) - {*names, "model", "input"})
        if unknown:
            raise ConfigError(
                f"{self.path}: unknown key {unknown[0]!r}. Known: {', '.join(names)}."
            )

    @cached_property
    def session(self) -> InferenceSession:
        """The network, loaded on first use."""
        return open_session(self.model)

    def run(self, names: Sequence[str], tensor: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Run the network and return the outputs of these names.

        Raises: ConfigError: no such output. InputError: the network does not take the input.
        """
        known = [output.name for output in self.session.get_outputs()]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{self.path}: {self.model.name} has no output {name!r}; it has "
                    f"{', '.join(known)}."
                )
        try:
            results: list[npt.NDArray[Any]] = self.session.run(
                names, {self.session.get_inputs()[0].name: tensor}
            )
        except Exception as error:  # onnxruntime's errors have no common base class
            raise InputError(f"{self.model}: {error}. Check 'input' of {self.path}.") from error
        return results


def read_spec(path: Path | str) -> OnnxSpec:
    """Read the description of an ONNX model.

    Raises:
        MissingInput: the description or its model does not exist.
        ConfigError: not YAML, or an invalid value.
    """
    path = need_file(path)
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not YAML ({error}).") from error
    if not isinstance(document, dict) or not isinstance(document.get("model"), str):
        raise ConfigError(f"{path}: the key 'model', the ONNX file, is missing.")
    given = document.get("input") or {}
    known = [field.name for field in fields(InputSpec)]
    if not isinstance(given, dict) or not {"size"} <= set(given) <= set(known):
        raise ConfigError(f"{path}: 'input' needs 'size'; its keys are {', '.join(sorted(known))}.")
    try:
        size = tuple(int(side) for side in given["size"])
        mean = tuple(float(value) for value in given.get("mean", (0, 0, 0)))
        std = tuple(float(value) for value in given.get("std", (255, 255, 255)))
        pad = float(given.get("pad", 0))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: a value of 'input' is not a number ({error}).") from error
    if len(size) != 2 or min(size) < 1 or len(mean) != 3 or len(std) != 3 or 0 in std:
        raise ConfigError(
            f"{path}: 'size' must be [width, height]; 'mean' and 'std' must be three numbers, "
            "those of 'std' not 0."
        )
    spec = InputSpec(
        (size[0], size[1]),
        choice(path, given, "resize", "letterbox", "centre", "stretch"),
        pad,
        choice(path, given, "colour", "rgb", "bgr"),
        mean,
        std,
        choice(path, given, "layout", "nchw", "nhwc"),
        choice(path, given, "type", "float32", "uint8"),
    )
    return OnnxSpec(path, need_file(path.parent / document["model"]), spec, document)


def choice(path: Path, given: Mapping[str, Any], key: str, *options: str) -> str:
    """Return the value of ``key``, one of ``options``; the first is the default.

    Raises: ConfigError: any other value.
    """
    value = given.get(key, options[0])
    if value not in options:
        raise ConfigError(f"{path}: {key} is {value!r}; it must be one of {', '.join(options)}.")
    return str(value)


def open_session(model: Path) -> InferenceSession:
    """Load an ONNX file; it runs on one thread because a build runs one process per core.

    Raises: InputError: onnxruntime cannot load the file.
    """
    import onnxruntime  # loads the ONNX runtime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise InputError(f"{model}: onnxruntime cannot load it ({error}).") from error
