"""A feature extractor plug-in: mean colour, size and position of every box."""

from __future__ import annotations

import numpy as np

import workflows  # noqa: F401  (for: luigi --module own_extractor BuildDataset)
from pipeline.vision import PooledExtractor, extractor_registry


@extractor_registry.register("mean-colour")
class MeanColour(PooledExtractor):
    """Seven numbers of any box; the base class pools objects and union boxes with ``pool``."""

    needs_pixels = True

    def identity(self):
        return {"name": "mean-colour", "version": 1}  # everything its output depends on

    def pool(self, image, boxes):
        pixels, (width, height) = image.rgb(), image.size
        rows = np.zeros((len(boxes), 7), np.float32)
        for row, (x0, y0, x1, y1) in zip(rows, boxes, strict=True):
            part = pixels[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
            row[:3] = part.reshape(-1, 3).mean(0) / 255
            row[3:] = x0 / width, y0 / height, x1 / width, y1 / height
        return rows
