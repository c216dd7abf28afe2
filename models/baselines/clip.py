"""Zero-shot CLIP over a stored variant of region features: what a user of today tries first.

The image side is the store's: region features that were computed by a CLIP vision tower
(``regions@clip``), pooled to one vector. The text side is computed once by ``prepare``, either
from a file of caption vectors or by the text tower of a local CLIP folder (``transformers``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from features.batches.batch import CaptionBatch, ImageBatch
from features.errors import (
    ConfigError,
    InputError,
    MismatchError,
    MissingDependency,
    MissingInput,
    TrainingError,
)
from models.nn.layers import cosine, l2norm, masked_max, masked_mean
from models.registry import register

__all__ = ["Clip", "ClipCaptions", "ClipImages", "ClipOptions", "embed_captions"]


@dataclass(frozen=True)
class ClipOptions:
    """Options of zero-shot CLIP.

    Attributes:
        image_dim, vocab_size, n_labels, n_predicates, n_tags: what the data says; ``image_dim``
            is the width of CLIP's common space.
        captions: ``.npy`` file of one vector per caption row of the store, or a local CLIP
            folder whose text tower makes them.
        pool: ``mean``: one vector per image; ``max``: the region that fits a caption best.
    """

    image_dim: int = 512
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    captions: str = ""
    pool: Literal["mean", "max"] = "mean"


class ClipImages(NamedTuple):
    """Regions and the pooled image of I images."""

    regions: Tensor  # (I, K, D), unit length, zeros where padded; K = 0 with ``mean``
    mask: Tensor  # (I, K) bool
    pooled: Tensor  # (I, D), unit length


class ClipCaptions(NamedTuple):
    """One unit vector per caption."""

    vectors: Tensor  # (C, D)


@register("clip", ClipOptions)
class Clip(nn.Module):
    """Cosine of CLIP vectors; call ``prepare`` before scoring."""

    reads_unions = False

    learns = False  # zero-shot: there is no loss to minimise

    caption_table: Tensor  # (captions in the store, D); no part of a checkpoint

    def __init__(self, options: ClipOptions) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("caption_table", torch.zeros(0, options.image_dim), persistent=False)

    def prepare(self, store: Any, codebook: Any) -> None:
        """Compute or read the vectors of all captions of a store.

        Args:
            store: the open store.   codebook: not used; captions are read as text.

        Raises:
            ConfigError: the option ``captions`` is not set.
            MissingInput, InputError, MissingDependency: see ``embed_captions``.
            MismatchError: the vectors do not fit the store or its region features.
        """
        del codebook
        texts = [str(text) for text in store.column("caption")]
        vectors = embed_captions(self.options.captions, texts)
        if vectors.shape != (len(texts), self.options.image_dim):
            raise MismatchError(
                f"{self.options.captions}: caption vectors {tuple(vectors.shape)}, but the store "
                f"has {len(texts)} captions and region features of {self.options.image_dim} "
                "numbers. Use vectors of the same CLIP and the same store."
            )
        self.caption_table = l2norm(vectors.float()).to(self.caption_table.device)

    def encode_images(self, images: ImageBatch) -> ClipImages:
        """Return unit vectors of the images, and of their regions where they are asked for."""
        mask = images.object_mask
        regions = l2norm(images.objects.float()).masked_fill(~mask.unsqueeze(-1), 0.0)
        pooled = l2norm(masked_mean(regions, mask.unsqueeze(-1), 1))
        if self.options.pool == "mean":
            regions, mask = regions[:, :0], mask[:, :0]
        return ClipImages(regions, mask, pooled)

    def encode_captions(self, captions: CaptionBatch) -> ClipCaptions:
        """Look the captions up by their row in the store.

        Raises: TrainingError: ``prepare`` was not called.
        """
        if not len(self.caption_table):
            raise TrainingError("clip knows no captions; call prepare(store, codebook).")
        return ClipCaptions(self.caption_table[captions.rows])

    def score(self, images: ClipImages, captions: ClipCaptions) -> Tensor:
        """Return (n_images, n_captions) cosines."""
        if self.options.pool == "mean":
            return images.pooled @ captions.vectors.T
        scores = images.regions @ captions.vectors.T  # (I, K, C)
        return masked_max(scores, images.mask.unsqueeze(-1), 1)

    def plain_score(self, images: ClipImages, captions: ClipCaptions) -> Tensor:
        """Return (n_images, 1) cosines."""
        if self.options.pool == "mean":
            return cosine(images.pooled, captions.vectors).unsqueeze(1)
        scores = cosine(images.regions, captions.vectors.unsqueeze(1))
        return masked_max(scores, images.mask, 1).unsqueeze(1)


def embed_captions(source: str, texts: list[str], batch_size: int = 256) -> Tensor:
    """Return one CLIP vector per text.

    Args:
        source: ``.npy`` file of ready vectors in the same order, or a local CLIP folder.
        texts: the captions.
        batch_size: captions per step of the text tower.

    Returns:
        (len(texts), D) float32.

    Raises:
        ConfigError: no source.   MissingInput: it is not there.   InputError: it is no array.
        MissingDependency: a folder without the package ``transformers``.
    """
    if not source:
        raise ConfigError(
            "clip needs the option 'captions': an .npy file with one CLIP vector per caption of "
            "the store, or the folder of the CLIP whose vision tower made the region features."
        )
    path = Path(source)
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder of caption vectors.")
    if path.is_file():
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (ValueError, OSError, TypeError) as error:
            raise InputError(f"{path}: not a plain .npy array ({error}).") from error
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError as error:
        raise MissingDependency.of(
            "transformers", "the text tower of a CLIP folder", "pip install 'transformers>=4.44'"
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    tower = CLIPTextModelWithProjection.from_pretrained(path, local_files_only=True).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            chunk = tokenizer(
                texts[start : start + batch_size],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            rows.append(tower(**chunk).text_embeds.float())
    return torch.cat(rows) if rows else torch.zeros(0, tower.config.projection_dim)
