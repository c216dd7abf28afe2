"""Batches that hold nothing but what a parity fixture gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from features.batches.batch import ImageBatch


@pytest.fixture(scope="session")
def images_of_regions() -> Callable[..., ImageBatch]:
    """Return a maker of image batches without relations, from (n, r, d) regions."""

    def make(objects: torch.Tensor, mask: torch.Tensor, boxes: torch.Tensor | None = None):
        n, r = objects.shape[:2]
        none = torch.zeros(n, 0, 2, dtype=torch.int64)
        return ImageBatch(
            rows=torch.arange(n),
            objects=objects,
            object_mask=mask,
            boxes=torch.zeros(n, r, 4) if boxes is None else boxes,
            labels=torch.zeros(n, r, dtype=torch.int64),
            scores=torch.ones(n, r),
            unions=torch.zeros(n, 0, objects.shape[2]),
            union_boxes=torch.zeros(n, 0, 4),
            relations=none,
            predicates=none[..., 0],
            relation_mask=none[..., 0].bool(),
            sizes=torch.ones(n, 2),
        )

    return make
