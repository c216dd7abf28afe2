"""A detector plug-in: ``python examples/own_detector.py PHOTO [PHOTO ...]`` tries it."""

import sys

import numpy as np

import pipeline
import workflows  # noqa: F401  (for: luigi --module own_detector BuildDataset)
from features import Detections
from pipeline.detect import detectors


@detectors.register("bright-spot")
class BrightSpot:
    """One box around the nearly white pixels."""

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})

    def identity(self):
        return {"name": "bright-spot", "version": 1}  # everything its output depends on

    def covers(self, image_id):
        return True

    def detect(self, image):
        rows, columns = np.nonzero(image.rgb().min(2) > 240)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []
        boxes = np.array(box, np.float32).reshape(-1, 4)
        score = np.full(len(boxes), len(rows) / max(1, image.rgb()[..., 0].size), np.float32)
        return Detections(boxes, ("bright spot",) * len(boxes), score, image.size)


if __name__ == "__main__":
    for photo, found in zip(
        sys.argv[1:], pipeline.detect(sys.argv[1:], "bright-spot"), strict=True
    ):
        print(photo, found.boxes.tolist(), found.scores.tolist())
