"""Region proposals: boxes that may hold an object, to be labelled by ``labelled``.

NanoDet's boxes down to a low score, boxes at usual places of an image for what is not an object of
COCO (grass, water, a street), and parts of the best boxes for what people wear and hold.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.format import hash_file
from features.records import Detections
from pipeline.vision.boxes import areas, clip_boxes, nms
from pipeline.vision.detectors.nanodet import (
    STRIDES,
    WEIGHTS,
    cell_boxes,
    coco_classes,
    forward,
    letterbox_scale,
)
from pipeline.vision.images import LazyImage

Float = npt.NDArray[np.float32]

CANDIDATES = 800  # cells with the best scores that enter NMS
MIN_AREA = 0.02  # of a box whose parts are proposed, as a share of the image
# Boxes as shares of the image (PLACES; the first is the whole image) and of a box (PARTS): centres
# of clusters of Flickr30k Entities' boxes, chosen one by one for the recall they add.
PLACES = np.array(
    [
        (0.00, 0.00, 1.00, 1.00),
        (0.01, 0.33, 0.99, 0.99),
        (0.01, 0.01, 0.99, 0.69),
        (0.01, 0.71, 0.99, 0.99),
        (0.03, 0.24, 0.98, 0.56),
        (0.07, 0.32, 0.47, 0.98),
        (0.54, 0.05, 0.98, 0.98),
        (0.03, 0.50, 0.96, 0.76),
        (0.27, 0.23, 0.70, 0.64),
    ],
    np.float32,
)
PARTS = np.array(
    [
        (0.17, 0.11, 0.74, 0.51),
        (0.23, 0.17, 0.92, 0.70),
        (0.26, 0.01, 0.80, 0.25),
        (0.06, 0.41, 0.72, 0.94),
        (0.26, 0.67, 0.85, 0.99),
        (0.04, 0.04, 0.95, 0.41),
    ],
    np.float32,
)


class Regions:
    """Proposals without regard to classes; the label of a NanoDet box is its best class of COCO.

    Boxes at usual places and parts have the label ``region`` and score 0; the whole image, which is
    always among them, is ``scene``.

    Args:
        detected: boxes of NanoDet.
        parents: best boxes whose parts are proposed.
        min_score: NanoDet boxes with a lower score are dropped.
        nms_iou: IoU above which the weaker of two NanoDet boxes is dropped.
    """

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})
    rules: ClassVar[dict[str, object]] = {
        "max_objects": 128,
        "cross_class_iou": 1.0,
        "whole_image": "empty",
    }

    def __init__(
        self, detected: int = 60, parents: int = 8, min_score: float = 0.01, nms_iou: float = 0.7
    ) -> None:
        if not (detected > 0 <= parents and 0 <= min_score <= 1 and 0 < nms_iou <= 1):
            raise UsageError(
                f"regions: detected {detected}, parents {parents}, min_score {min_score}, nms_iou "
                f"{nms_iou}: counts must be positive, the others in [0, 1]."
            )
        self.detected, self.parents = detected, parents
        self.min_score, self.nms_iou = min_score, nms_iou

    def identity(self) -> dict[str, object]:
        """Return name, version, weights and options."""
        return {
            "name": "regions",
            "version": 1,
            "weights": hash_file(WEIGHTS),
            "detected": self.detected,
            "parents": self.parents,
            "min_score": self.min_score,
            "nms_iou": self.nms_iou,
        }

    def covers(self, image_id: str) -> bool:
        """Return True: any image can be processed."""
        return True

    def detect(self, image: LazyImage) -> Detections:
        """Return the proposals: NanoDet's boxes, best first, places, then parts."""
        boxes, scores, classes = self._network_boxes(image)
        size = np.array([*image.size, *image.size], np.float32)
        large = np.flatnonzero(areas(boxes) > MIN_AREA * size[2] * size[3])[: self.parents]
        corner, sides = boxes[large, :2], boxes[large, 2:] - boxes[large, :2]
        parts = [
            np.concatenate([corner + sides * part[:2], corner + sides * part[2:]], 1)
            for part in PARTS
        ]
        others = len(PLACES) + sum(map(len, parts))
        names = [coco_classes()[row] for row in classes]
        return Detections(
            boxes=np.concatenate([boxes, PLACES * size, *parts]).astype(np.float32),
            labels=(*names, "scene", *["region"] * (others - 1)),
            scores=np.concatenate([scores, np.zeros(others, np.float32)]).astype(np.float32),
            size=image.size,
        )

    def _network_boxes(self, image: LazyImage) -> tuple[Float, Float, npt.NDArray[np.int64]]:
        """Return NanoDet's boxes, one per cell, their best scores and classes."""
        outputs = forward(image)
        by_class = np.concatenate([outputs[f"c{stride}"][0] for stride in STRIDES])
        scores = by_class.max(1)
        cells = np.flatnonzero(scores >= self.min_score)
        cells = cells[np.argsort(-scores[cells], kind="stable")][:CANDIDATES]
        boxes = cell_boxes(outputs, cells) / letterbox_scale(image.size)
        boxes = clip_boxes(boxes, image.size)
        solid = (boxes[:, 2:] > boxes[:, :2] + 1).all(1)
        boxes, cells = boxes[solid], cells[solid]
        kept = nms(boxes, scores[cells], self.nms_iou, limit=self.detected)
        cells = cells[kept]
        return boxes[kept], scores[cells], by_class[cells].argmax(1)
