"""Feature extractors that run a network on the pixels.

Most run the network once per image and pool all object and union boxes from its feature map;
``clip`` runs it once per box on a crop, because its networks return one vector per image.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from features.errors import ConfigError, InputError, MissingDependency, UsageError
from features.format import hash_file
from pipeline.vision.detectors.nanodet import WEIGHTS, colour_features, nanodet_features
from pipeline.vision.detectors.torch_models import hash_pretrained
from pipeline.vision.extraction import PooledExtractor
from pipeline.vision.images import LazyImage
from pipeline.vision.onnx_spec import Fit, InputSpec, open_session, read_spec
from pipeline.vision.roi import roi_align

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Float = npt.NDArray[np.float32]

EFFICIENTNET = Path(__file__).parents[1] / "weights" / "efficientnet-lite0-512.onnx"
CROPS = 16  # batch size of ``clip``


def pool_map(values: npt.NDArray[Any], boxes: Float, size: tuple[int, int]) -> Float:
    """Return the mean of a feature map over each box, (n, C).

    Args:
        values: (C, H, W), covers the whole input.
        boxes: (n, 4) xyxy in input pixels.
        size: (width, height) of the input.
    """
    strides = np.array([size[0] / values.shape[2], size[1] / values.shape[1]] * 2, np.float32)
    cells: Float = boxes / strides
    return roi_align(values.astype(np.float32), cells, 1.0, sampling=0)[:, :, 0, 0]


class NanodetFeatures(PooledExtractor):
    """Feature maps of the detector NanoDet-g and colours, pooled over any boxes: 576 numbers."""

    def identity(self) -> dict[str, object]:
        """Return name, version and weights."""
        return {"name": "nanodet", "version": 2, "weights": hash_file(WEIGHTS)}

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes, (n, 576)."""
        return nanodet_features(image, boxes)


class EfficientNetFeatures(PooledExtractor):
    """Last feature map of EfficientNet-lite0 (ImageNet) at 512 pixels: 1280 numbers."""

    INPUT = InputSpec(
        (512, 512), "letterbox", 127, "rgb", (127,) * 3, (128,) * 3, "nchw", "float32"
    )

    def identity(self) -> dict[str, object]:
        """Return name, version and weights."""
        return {"name": "efficientnet-lite0", "version": 3, "weights": hash_file(EFFICIENTNET)}

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes, (n, 1280)."""
        if "efficientnet-lite0" not in image.computed:
            image.computed["efficientnet-lite0"] = self._map(image)
        values, fit = cast("tuple[Float, Fit]", image.computed["efficientnet-lite0"])
        return roi_align(values, fit.to_input(boxes), 32, sampling=0)[:, :, 0, 0]

    def _map(self, image: LazyImage) -> tuple[Float, Fit]:
        """Return the feature map and where the image is in it; computed once per image."""
        tensor, fit = self.INPUT.prepare(image)
        (values,) = _efficientnet().run(["map"], {"image": tensor})
        return values[0], fit


class EfficientNetColours(EfficientNetFeatures):
    """Features of EfficientNet-lite0 and colours of each box and its inner half: 1312 numbers."""

    def identity(self) -> dict[str, object]:
        """Return name, version and weights."""
        return {**super().identity(), "name": "efficientnet-lite0-colours", "version": 2}

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes, (n, 1312)."""
        return np.concatenate([super().pool(image, boxes), colour_features(image, boxes)], axis=1)


@lru_cache(maxsize=1)
def _efficientnet() -> InferenceSession:
    """Load the network; a process does it once."""
    return open_session(EFFICIENTNET)


class OnnxFeatures(PooledExtractor):
    """A feature map of any ONNX backbone, pooled by RoIAlign.

    Beside ``model`` and ``input`` (see ``pipeline.vision.onnx_spec``) the YAML may have ``map``,
    the name of an output (1, C, H, W); the default is the first output with four axes.

    Args:
        path: the YAML file: ``--features onnx:backbone.yaml``.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        if path is None:
            raise UsageError("features 'onnx' need a YAML file: --features onnx:FILE.yaml.")
        self.spec = read_spec(path)
        self.spec.check_keys("map")

    def identity(self) -> dict[str, object]:
        """Return name, version and the hashes of description and weights."""
        return {"name": "onnx", "version": 2, **self.spec.identity()}

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of boxes, (n, C)."""
        tensor, fit = self.spec.input.prepare(image)
        outputs = self.spec.session.get_outputs()
        maps = [output.name for output in outputs if len(output.shape) == 4]
        name = self.spec.keys.get("map") or next(iter(maps), "map")
        (values,) = self.spec.run([name], tensor)
        if values.ndim != 4:
            raise ConfigError(
                f"{self.spec.path}: output {name!r} has shape {values.shape}; a feature map has "
                "four axes."
            )
        return pool_map(values[0], fit.to_input(boxes), self.spec.input.size)


class ClipFeatures(PooledExtractor):
    """Image encoders of CLIP, SigLIP or DINOv2 from transformers, run on one crop per box.

    Args:
        path: a folder written by ``save_pretrained`` or a name on the hub:
            ``--features clip:openai/clip-vit-base-patch32``.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        if path is None:
            raise UsageError("features 'clip' need a model: --features clip:FOLDER_OR_HUB_NAME.")
        self.path = str(path)

    def identity(self) -> dict[str, object]:
        """Return name, version and the hashes of a local folder's files, or the name on the hub."""
        return {"name": "clip", "version": 1, "weights": hash_pretrained(self.path)}

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The image processor and the network.

        Raises: MissingDependency: transformers is missing. InputError: the model cannot be loaded.
        """
        try:
            from transformers import AutoImageProcessor, AutoModel  # optional; loads torch
        except ImportError as error:
            raise MissingDependency.of(
                "transformers", "--features clip", "pip install transformers"
            ) from error
        try:
            processor = AutoImageProcessor.from_pretrained(self.path)
            return processor, AutoModel.from_pretrained(self.path).eval()
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: not an image encoder ({error}).") from error

    def pool(self, image: LazyImage, boxes: Float) -> Float:
        """Return one vector per box, (n, D)."""
        import torch  # loads torch
        from PIL import Image  # loads Pillow

        processor, network = self.loaded
        pixels = image.rgb()
        # As PIL images, because the channel axis of a tiny array is ambiguous.
        crops = [Image.fromarray(_crop(pixels, box)) for box in boxes] or [Image.fromarray(pixels)]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(crops), CROPS):
                inputs = processor(images=crops[start : start + CROPS], return_tensors="pt")
                if hasattr(network, "get_image_features"):
                    out = network.get_image_features(pixel_values=inputs["pixel_values"])
                else:
                    out = network(pixel_values=inputs["pixel_values"])
                vectors = getattr(out, "pooler_output", out)
                parts.append(vectors.float().numpy())
        return np.concatenate(parts)[: len(boxes)]


def _crop(pixels: npt.NDArray[np.uint8], box: Float) -> npt.NDArray[np.uint8]:
    """Crop a box, at least one pixel."""
    height, width = pixels.shape[:2]
    x1, y1 = (min(int(low), side - 1) for low, side in zip(box[:2], (width, height), strict=True))
    x2, y2 = int(np.ceil(box[2])), int(np.ceil(box[3]))
    return np.ascontiguousarray(pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)])
