"""NanoDet-g: the embedded default detector, and its feature maps for any box.

Weights are package data (Apache-2.0, see weights/NOTICE), run by onnxruntime on one thread.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format.keys import hash_file
from features.records import Detections
from pipeline.detect import detectors
from pipeline.vision.boxes import clip_boxes, nms
from pipeline.vision.images import Picture
from pipeline.vision.roi import FeatureMap, colour_map, pool_maps

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["FEATURE_DIM", "Nanodet", "coco_classes", "nanodet_features", "session"]

Float = npt.NDArray[np.float32]

WEIGHTS = Path(__file__).parent / "weights" / "nanodet-g-416.onnx"
LABELS = WEIGHTS.with_name("coco80.txt")
SIDE = 416  # pixels of the square input
STRIDES = (8, 16, 32)
MEAN = np.array([103.53, 116.28, 123.675], np.float32)  # B, G, R of 0..255 pixels
STD = np.array([57.375, 57.12, 58.395], np.float32)
# Feature maps that are pooled and their strides; factors that bring them to one scale.
MAPS = (("p8", 8), ("p16", 16), ("p32", 32), ("stage2", 8), ("stem", 4))
GAINS = np.repeat(np.array([1, 4], np.float32), [3 * 128, 128 + 32])
FEATURE_DIM = 3 * 128 + 128 + 32 + 2 * 16  # semantics, parts, texture, colour


@detectors.register("nanodet")
class Nanodet:
    """NanoDet-g at 416 pixels, COCO's 80 classes.

    Args:
        min_score: boxes below are dropped. The default keeps doubtful boxes: a scene graph wants
            recall, and a reader can still filter by score.
        nms_iou: overlap above which the weaker of two boxes of one class goes.
        candidates: best scored (cell, class) pairs that enter NMS.
    """

    needs_pixels = True
    brings = frozenset({"labels", "scores", "size", "maps"})

    def __init__(
        self, min_score: float = 0.02, nms_iou: float = 0.6, candidates: int = 600
    ) -> None:
        if not (0 <= min_score <= 1 and 0 < nms_iou <= 1 and candidates > 0):
            raise UsageError(
                f"nanodet: min_score {min_score}, nms_iou {nms_iou}, candidates {candidates}: "
                "the first two lie in [0, 1], the third is positive."
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
        """Every picture can be looked at."""
        return True

    def detect(self, picture: Picture) -> Detections:
        """Return the objects of one picture, best first."""
        outputs = forward(picture)
        boxes, scores, classes = self._decode(outputs)
        boxes = clip_boxes(boxes / letterbox_scale(picture.size), picture.size)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a box in the padding has nothing to show
        boxes, scores, classes = boxes[solid], scores[solid], classes[solid]
        kept = nms(boxes, scores, self.nms_iou, classes=classes)
        return Detections(
            boxes=boxes[kept],
            labels=tuple(coco_classes()[row] for row in classes[kept]),
            scores=scores[kept],
            size=picture.size,
        )

    def regions(self, picture: Picture, boxes: Float) -> Float:
        """Return features of any boxes of the picture, (n, FEATURE_DIM)."""
        return nanodet_features(picture, boxes)

    def _decode(self, outputs: dict[str, Float]) -> tuple[Float, Float, npt.NDArray[np.int64]]:
        """Return boxes in letterbox pixels, scores and classes of the best candidates."""
        places, parts, first = [], [], 0
        for stride in STRIDES:
            flat = outputs[f"c{stride}"].reshape(-1)  # cells x 80
            rows = np.flatnonzero(flat >= self.min_score)
            places.append(rows + first)
            parts.append(flat[rows])
            first += len(flat)
        above, scores = np.concatenate(places), np.concatenate(parts)
        if len(above) > self.candidates:  # sort only what can be among the best
            last = len(above) - self.candidates
            good = np.flatnonzero(scores >= np.partition(scores, last)[last])
            above, scores = above[good], scores[good]
        order = np.argsort(-scores, kind="stable")[: self.candidates]
        cells, classes = np.divmod(above[order], len(coco_classes()))
        bins = np.concatenate([outputs[f"r{stride}"][0] for stride in STRIDES])[cells]
        bins = bins.reshape(-1, 11)  # four sides of each candidate
        weights = np.exp(bins - bins.max(1, keepdims=True))
        sides = (weights @ np.arange(11, dtype=np.float32)) / weights.sum(1)
        sides = sides.reshape(-1, 4)  # l, t, r, b
        centres, strides = (table[cells] for table in _cells())
        sides *= strides[:, None]
        return (
            np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1),
            scores[order],
            classes,
        )


def forward(picture: Picture) -> dict[str, Float]:
    """Run the network once per picture and return all outputs by name."""
    known = picture.computed.get("nanodet")
    if known is None:
        network, names = session()
        half, factor = picture.reduced(max(picture.size) / (1.5 * SIDE))
        pixels = letterbox(half, picture.size, factor)
        results = network.run(names, {"image": _normalised(pixels)})
        known = {**dict(zip(names, results, strict=True)), "pixels": pixels}
        picture.computed["nanodet"] = known
    outputs: dict[str, Float] = known  # type: ignore[assignment]
    return outputs


def nanodet_features(picture: Picture, boxes: Float) -> Float:
    """Pool the network's maps and the colours over boxes.

    Args:
        picture: with pixels.
        boxes: (n, 4) xyxy pixels of the picture.

    Returns:
        (n, 576) float32: 128 each of the neck maps at strides 8, 16 and 32 (what it is), 128 of
        backbone stage 2 and 32 of the stem (parts, texture), 16 colour values of the whole box and
        16 of its inner half.
    """
    outputs = forward(picture)
    picture_pixels = cast("npt.NDArray[np.uint8]", outputs["pixels"])
    scale = letterbox_scale(picture.size)
    maps = [FeatureMap(outputs[name][0], stride) for name, stride in MAPS]
    # Whole cells of 4 pixels that the picture reaches into; the rest is padding.
    width, height = (int(np.ceil(side * scale / 4)) * 4 for side in picture.size)
    colours = FeatureMap(colour_map(picture_pixels[:height, :width]), 4)
    scaled = boxes.reshape(-1, 4) * scale
    centre, half = (scaled[:, :2] + scaled[:, 2:]) / 2, (scaled[:, 2:] - scaled[:, :2]) / 4
    inner = np.concatenate([centre - half, centre + half], axis=1)
    of_colours = pool_maps([colours], np.concatenate([scaled, inner]))
    return np.concatenate(
        [pool_maps(maps, scaled) * GAINS, of_colours[: len(scaled)], of_colours[len(scaled) :]],
        axis=1,
    )


def letterbox_scale(size: tuple[int, int]) -> np.float32:
    """Return the factor from picture pixels to input pixels."""
    return np.float32(SIDE / max(size))


def letterbox(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], factor: int = 1
) -> npt.NDArray[np.uint8]:
    """Scale the longer side to 416; the other ends in a few zeros, (height, width, 3).

    Plain bilinear sampling, as in training; a smoother filter costs 1.2 points of AP50 on COCO.
    Pictures of three times the size and more come averaged down, so that no pixel is skipped.

    Args:
        pixels: the picture at 1/factor.
        size: (width, height) of the whole picture.
    """
    from PIL import Image

    step = max(size) / SIDE
    steps = (step / factor, 0, 0, 0, step / factor, 0)
    # Whole cells of the colour map. What lies outside of the picture comes out as zeros.
    width, height = (min(SIDE, 4 * (int(side / step + 0.01) // 4 + 1)) for side in size)
    scaled = Image.fromarray(pixels).transform(
        (width, height), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR
    )
    return np.asarray(scaled)


def _normalised(pixels: npt.NDArray[np.uint8]) -> Float:
    """Lay the scaled picture on black and normalise: (1, 3, 416, 416), the order B, G, R."""
    height, width, _ = pixels.shape
    image = _black().copy()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        inside = image[0, channel, :height, :width]
        np.subtract(pixels[..., 2 - channel], mean, out=inside)
        inside *= np.float32(1 / std)
    return image


@lru_cache(maxsize=1)
def _black() -> Float:
    """Return the normalised input of a black picture."""
    level = (0 - MEAN) * (1 / STD).astype(np.float32)
    return np.repeat(level, SIDE * SIDE).reshape(1, 3, SIDE, SIDE)


@lru_cache(maxsize=1)
def coco_classes() -> tuple[str, ...]:
    """Return the names of the 80 classes of COCO, in the order of the network's outputs."""
    return tuple(LABELS.read_text(encoding="utf-8").splitlines())


@lru_cache(maxsize=1)
def session() -> tuple[InferenceSession, list[str]]:
    """Load the network once per process; one thread, because the build runs one process a core."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    network = onnxruntime.InferenceSession(
        str(WEIGHTS), options, providers=["CPUExecutionProvider"]
    )
    return network, [output.name for output in network.get_outputs()]


@lru_cache(maxsize=1)
def _cells() -> tuple[Float, Float]:
    """Return the centre (3549, 2) and the stride (3549,) of every cell, in the outputs' order."""
    centres, strides = [], []
    for stride in STRIDES:
        line = (np.arange(SIDE // stride, dtype=np.float32) + 0.5) * stride
        x, y = np.meshgrid(line, line)
        centres.append(np.stack([x.reshape(-1), y.reshape(-1)], axis=1))
        strides.append(np.full(x.size, stride, np.float32))
    return np.concatenate(centres), np.concatenate(strides)
