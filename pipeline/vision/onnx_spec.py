"""What a small YAML says about an ONNX file: how pictures go in and what the outputs mean.

::

    model: yolo.onnx                # beside the YAML, or an absolute path
    input:
      size: [640, 640]              # width, height
      resize: letterbox             # letterbox (top-left), centre (letterbox, centred), stretch
      pad: 114                      # value of the padding, before the normalisation
      colour: rgb                   # rgb or bgr
      mean: [0, 0, 0]               # subtracted from 0..255 values, in the order of ``colour``
      std: [255, 255, 255]
      layout: nchw                  # nchw or nhwc
      type: float32                 # float32 or uint8 (uint8: neither mean nor std)

The detector's and the extractor's own keys are described where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import ConfigError, InputError
from features.format.keys import hash_file
from pipeline.vision.images import Picture

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Fit", "InputSpec", "OnnxSpec", "choice", "open_session", "read_spec"]

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fit:
    """Where the picture lies in the network's input: input = picture * scale + shift."""

    scale: tuple[float, float]  # x, y
    shift: tuple[float, float]

    def to_input(self, boxes: Float) -> Float:
        """Turn picture pixels into input pixels."""
        moved = boxes * np.tile(self.scale, 2) + np.tile(self.shift, 2)
        return np.asarray(moved, np.float32)

    def to_picture(self, boxes: Float) -> Float:
        """Turn input pixels into picture pixels."""
        moved = (boxes - np.tile(self.shift, 2)) / np.tile(self.scale, 2)
        return np.asarray(moved, np.float32)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How a picture becomes the network's input; see the module's top."""

    size: tuple[int, int]
    resize: str
    pad: float
    colour: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    type: str

    def prepare(self, picture: Picture) -> tuple[npt.NDArray[Any], Fit]:
        """Return the input tensor, one picture, and where the picture lies in it.

        Large pictures come averaged down to twice the input's size or more; the filter of the
        scaling below evens out how.
        """
        from PIL import Image

        (width, height), (w, h) = picture.size, self.size
        scale = (w / width, h / height)
        if self.resize != "stretch":
            scale = (min(scale), min(scale))
        inside = [max(1, round(width * scale[0])), max(1, round(height * scale[1]))]
        left, top = (
            ((w - inside[0]) // 2, (h - inside[1]) // 2) if self.resize == "centre" else (0, 0)
        )
        pixels, factor = picture.reduced(0.5 / max(scale))
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


@dataclass(frozen=True, slots=True)
class OnnxSpec:
    """A YAML that was read: where the model lies, its input, and the rest of the keys."""

    path: Path
    model: Path
    input: InputSpec
    keys: Mapping[str, Any]

    def identity(self) -> dict[str, object]:
        """Return the hashes of description and weights."""
        return {"description": hash_file(self.path), "weights": hash_file(self.model)}

    def pick(self, *names: str) -> None:
        """Check that there is no key beside ``names``.

        Raises: ConfigError: an unknown key.
        """
        unknown = sorted(set(self.keys) - {*names, "model", "input"})
        if unknown:
            raise ConfigError(
                f"{self.path}: unknown key {unknown[0]!r}. Known: {', '.join(names)}."
            )


def read_spec(path: Path | str) -> OnnxSpec:
    """Read the description of an ONNX model.

    Raises:
        MissingInput: no such file, or no model where it says.
        ConfigError: not YAML, or a value that makes no sense.
    """
    import yaml

    from features.convert.safe.inputs import need_file

    path = need_file(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({error}).") from error
    if not isinstance(document, dict) or not isinstance(document.get("model"), str):
        raise ConfigError(f"{path}: needs the key 'model', the ONNX file.")
    given = document.get("input") or {}
    known = {"size", "resize", "pad", "colour", "mean", "std", "layout", "type"}
    if not isinstance(given, dict) or set(given) - known or "size" not in given:
        raise ConfigError(f"{path}: 'input' needs 'size' and knows {', '.join(sorted(known))}.")
    try:
        size = tuple(int(side) for side in given["size"])
        mean = tuple(float(value) for value in given.get("mean", (0, 0, 0)))
        std = tuple(float(value) for value in given.get("std", (255, 255, 255)))
        pad = float(given.get("pad", 0))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: 'input' has a value that is no number ({error}).") from error
    if len(size) != 2 or min(size) < 1 or len(mean) != 3 or len(std) != 3 or 0 in std:
        raise ConfigError(f"{path}: 'size' is [width, height]; 'mean' and 'std' are three numbers.")
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
    """Return one of several words; the first is the default.

    Raises: ConfigError: another word.
    """
    value = given.get(key, options[0])
    if value not in options:
        raise ConfigError(f"{path}: {key} is {value!r}, it must be one of {', '.join(options)}.")
    return str(value)


def open_session(model: Path) -> InferenceSession:
    """Load an ONNX file on one thread, because the build runs one process a core.

    Raises: InputError: onnxruntime cannot load it.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base of their own
        raise InputError(f"{model}: onnxruntime cannot load it ({error}).") from error
