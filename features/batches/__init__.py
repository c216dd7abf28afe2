"""Batches of images and captions for training and evaluation."""

from features.batches.batch import CaptionBatch, ImageBatch
from features.batches.caption_encoder import CaptionColumns, CaptionEncoder, caption_batch
from features.batches.image_encoder import ImageEncoder, image_batch
from features.batches.loader import Loader, caption_batches, image_batches

__all__ = [
    "CaptionBatch",
    "CaptionColumns",
    "CaptionEncoder",
    "ImageBatch",
    "ImageEncoder",
    "Loader",
    "caption_batch",
    "caption_batches",
    "image_batch",
    "image_batches",
]
