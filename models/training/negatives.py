"""The hinge loss on false captions: an image scores its caption higher than the negative.

The trainer adds it to the loss of any model. The negative of a caption in an epoch depends on the
seed, the epoch and the caption alone, so a resumed run draws the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.evaluation import paired_scores

if TYPE_CHECKING:
    from features.batches import CaptionBatch, ImageBatch


def negative_hinge(
    model: Any,
    images: ImageBatch,
    captions: CaptionBatch,
    negatives: CaptionBatch,
    margin: float,
) -> Tensor:
    """Return the sum of max(0, margin - s(image, caption) + s(image, negative)).

    Args:
        model: the model.
        images, captions, negatives: B rows each, row i of all belongs together.
        margin: by how much the caption should score higher.
    """
    code = model.encode_images(images)
    rows = torch.arange(len(captions.rows), device=captions.words.device)
    true = paired_scores(model, code, model.encode_captions(captions), rows)
    false = paired_scores(model, code, model.encode_captions(negatives), rows)
    return (margin + false - true).clamp(min=0).sum()
