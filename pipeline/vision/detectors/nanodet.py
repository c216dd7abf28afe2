"""NanoDet-g, the default detector, and its feature maps for any boxes.

The weights are package data (Apache-2.0, see weights/NOTICE); onnxruntime runs them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format import hash_file
from features.records import Detections
from pipeline.vision.boxes import clip_boxes, nms
from pipeline.vision.images import LazyImage
from pipeline.vision.onnx_spec import open_session
from pipeline.vision.roi import FeatureMap, colour_map, pool_maps

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Float = npt.NDArray[np.float32]

WEIGHTS = Path(__file__).parents[1] / "weights" / "nanodet-g-416.onnx"
LABELS = WEIGHTS.with_name("coco80.txt")
SIDE = 416  # pixels of the square input
STRIDES = (8, 16, 32)
MEAN = np.array([103.53, 116.28, 123.675], np.float32)  # B, G, R of pixels 0..255
STD = np.array([57.375, 57.12, 58.395], np.float32)
# Feature maps to pool, their strides, and factors that bring them to a common scale.
MAPS = (("p8", 8), ("p16", 16), ("p32", 32), ("stage2", 8), ("stem", 4))
GAINS = np.repeat(np.array([1, 4], np.float32), [3 * 128, 128 + 32])
FEATURE_DIM = 3 * 128 + 128 + 32 + 2 * 16  # classes, parts, texture, colour


class Nanodet:
    """NanoDet-g at 416 pixels, COCO's 80 classes.

    Args:
        min_score: boxes with a lower score are dropped. The default keeps uncertain boxes: scene
            graphs need recall, and readers can still filter by score.
        nms_iou: IoU above which the weaker of two boxes of one class is dropped.
        candidates: number of best (cell, class) pairs that enter NMS.
    """

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size", "maps"})

    def __init__(
        self, min_score: float = 0.02, nms_iou: float = 0.6, candidates: int = 600
    ) -> None:
        if not (0 <= min_score <= 1 and 0 < nms_iou <= 1 and candidates > 0):
            raise UsageError(
                f"nanodet: min_score {min_score}, nms_iou {nms_iou}, candidates {candidates}: "
                "the first two must be in [0, 1], nms_iou and candidates above 0."
            )
        self.min_score, self.nms_iou, self.candidates = min_score, nms_iou, candidates

    def identity(self) -> dict[str, object]:
        """Return name, version, weights and thresholds."""
        return {
            "name": "nanodet",
            "version": 2,
            "weights": hash_file(WEIGHTS),
            "min_score": self.min_score,
            "nms_iou": self.nms_iou,
            "candidates": self.candidates,
        }

    def covers(self, image_id: str) -> bool:
        """Return True: any image can be processed."""
        return True

    def detect(self, image: LazyImage) -> Detections:
        """Return the objects of an image, best first."""
        boxes, scores, classes = self.decode(forward(image))
        boxes = clip_boxes(boxes / letterbox_scale(image.size), image.size)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)  # boxes in the padding are clipped to nothing
        boxes, scores, classes = boxes[solid], scores[solid], classes[solid]
        kept = nms(boxes, scores, self.nms_iou, classes=classes)
        return Detections(
            boxes=boxes[kept],
            labels=tuple(coco_classes()[row] for row in classes[kept]),
            scores=scores[kept],
            size=image.size,
        )

    def regions(self, image: LazyImage, boxes: Float) -> Float:
        """Return features of any boxes of the image, (n, FEATURE_DIM)."""
        return nanodet_features(image, boxes)

    def decode(self, outputs: dict[str, Float]) -> tuple[Float, Float, npt.NDArray[np.int64]]:
        """Return boxes in input pixels, scores and classes of the best candidates."""
        flat = np.concatenate([outputs[f"c{stride}"].ravel() for stride in STRIDES])  # cells x 80
        above = np.flatnonzero(flat >= self.min_score)
        scores = flat[above]
        if len(above) > self.candidates:  # drop most before sorting
            last = len(above) - self.candidates
            good = np.flatnonzero(scores >= np.partition(scores, last)[last])
            above, scores = above[good], scores[good]
        order = np.argsort(-scores, kind="stable")[: self.candidates]
        cells, classes = np.divmod(above[order], len(coco_classes()))
        return cell_boxes(outputs, cells), scores[order], classes


def cell_boxes(outputs: dict[str, Float], cells: npt.NDArray[np.integer]) -> Float:
    """Return the boxes that the network predicts at ``cells``, (n, 4) xyxy in input pixels."""
    bins = np.concatenate([outputs[f"r{stride}"][0] for stride in STRIDES])[cells]
    bins = bins.reshape(-1, 11)  # four sides of each candidate
    weights = np.exp(bins - bins.max(1, keepdims=True))
    sides = (weights @ np.arange(11, dtype=np.float32)) / weights.sum(1)
    sides = sides.reshape(-1, 4)  # l, t, r, b
    centres, strides = (table[cells] for table in _cells())
    sides *= strides[:, None]
    return np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1)


def forward(image: LazyImage) -> dict[str, Float]:
    """Return all outputs of the network by name; it runs once per image."""
    known = image.computed.get("nanodet")
    if known is None:
        network, names = session()
        reduced, factor = image.reduced(max(image.size) / (1.5 * SIDE))
        pixels = letterbox(reduced, image.size, factor)
        results = network.run(names, {"image": normalise(pixels)})
        known = {**dict(zip(names, results, strict=True)), "pixels": pixels}
        image.computed["nanodet"] = known
    outputs: dict[str, Float] = known  # type: ignore[assignment]
    return outputs


def nanodet_features(image: LazyImage, boxes: Float) -> Float:
    """Pool the network's feature maps and the image's colours over boxes.

    Args:
        image: with pixels.
        boxes: (n, 4) xyxy in image pixels.

    Returns:
        (n, 576) float32: 128 each from the neck at strides 8, 16 and 32 (classes), 128 from
        backbone stage 2 (parts), 32 from the stem (texture), 16 colour values of the whole box and
        16 of its inner half.
    """
    outputs = forward(image)
    maps = [FeatureMap(outputs[name][0], stride) for name, stride in MAPS]
    scaled = boxes.reshape(-1, 4) * letterbox_scale(image.size)
    return np.concatenate([pool_maps(maps, scaled) * GAINS, colour_features(image, boxes)], axis=1)


def colour_features(image: LazyImage, boxes: Float) -> Float:
    """Return 16 colour values of each box and 16 of its inner half, (n, 32)."""
    pixels = cast("npt.NDArray[np.uint8]", forward(image)["pixels"])
    scale = letterbox_scale(image.size)
    # Whole cells of 4 pixels that contain part of the image; the rest is padding.
    width, height = (int(np.ceil(side * scale / 4)) * 4 for side in image.size)
    colours = FeatureMap(colour_map(pixels[:height, :width]), 4)
    scaled = boxes.reshape(-1, 4) * scale
    centre, half = (scaled[:, :2] + scaled[:, 2:]) / 2, (scaled[:, 2:] - scaled[:, :2]) / 4
    inner = np.concatenate([centre - half, centre + half], axis=1)
    both = pool_maps([colours], np.concatenate([scaled, inner]))
    return np.concatenate([both[: len(scaled)], both[len(scaled) :]], axis=1)


def letterbox_scale(size: tuple[int, int]) -> np.float32:
    """Return the factor from image pixels to input pixels."""
    return np.float32(SIDE / max(size))


def letterbox(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], factor: int = 1
) -> npt.NDArray[np.uint8]:
    """Scale the longer side to 416 pixels; the shorter is padded to whole cells: (h, w, 3).

    Plain bilinear sampling, as in training; a smoother filter costs 1.2 points of AP50 on COCO.
    Images of three times the input size or more are averaged down first, so no pixel is skipped.

    Args:
        pixels: the image at 1 / factor.
        size: (width, height) of the full image.
    """
    from PIL import Image  # loads Pillow

    step = max(size) / SIDE
    steps = (step / factor, 0, 0, 0, step / factor, 0)
    # Whole cells of the colour map; pixels outside the image become zero.
    width, height = (min(SIDE, 4 * (int(side / step + 0.01) // 4 + 1)) for side in size)
    scaled = Image.fromarray(pixels).transform(
        (width, height), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR
    )
    return np.asarray(scaled)


def normalise(pixels: npt.NDArray[np.uint8]) -> Float:
    """Normalise the scaled image on a black canvas: (1, 3, 416, 416), channels B, G, R."""
    height, width, _ = pixels.shape
    image = _black().copy()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        inside = image[0, channel, :height, :width]
        np.subtract(pixels[..., 2 - channel], mean, out=inside)
        inside *= np.float32(1 / std)
    return image


@lru_cache(maxsize=1)
def _black() -> Float:
    """Return the normalised input of a black image."""
    level = (0 - MEAN) * (1 / STD).astype(np.float32)
    return np.repeat(level, SIDE * SIDE).reshape(1, 3, SIDE, SIDE)


@lru_cache(maxsize=1)
def coco_classes() -> tuple[str, ...]:
    """Return COCO's 80 class names, in the order of the network's outputs."""
    return tuple(LABELS.read_text(encoding="utf-8").splitlines())


@lru_cache(maxsize=1)
def session() -> tuple[InferenceSession, list[str]]:
    """Return the network and the names of its outputs; a process loads it once."""
    network = open_session(WEIGHTS)
    return network, [output.name for output in network.get_outputs()]


@lru_cache(maxsize=1)
def _cells() -> tuple[Float, Float]:
    """Return the centre (3549, 2) and stride (3549,) of each cell, in the order of the outputs."""
    centres, strides = [], []
    for stride in STRIDES:
        line = (np.arange(SIDE // stride, dtype=np.float32) + 0.5) * stride
        x, y = np.meshgrid(line, line)
        centres.append(np.stack([x.reshape(-1), y.reshape(-1)], axis=1))
        strides.append(np.full(x.size, stride, np.float32))
    return np.concatenate(centres), np.concatenate(strides)
