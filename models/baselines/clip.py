"""Zero-shot CLIP over region features that a CLIP vision tower computed.

The store holds the region features (variant ``regions@clip``). ``prepare`` reads the caption
vectors from a file, or computes them with the text tower of a local CLIP folder (needs the package
``transformers``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from features.errors import (
    ConfigError,
    InputError,
    MismatchError,
    MissingDependency,
    MissingInput,
    TrainingError,
)
from models.nn import DataOptions, cosine, l2norm, masked_l2norm, masked_max, masked_mean
from models.registry import register


@dataclass(frozen=True)
class ClipOptions(DataOptions):
    """Options of zero-shot CLIP."""

    image_dim: int = 512
    """Width of CLIP's common space."""
    captions: str = ""
    """``.npy`` file with one vector per caption row of the store, or a local CLIP folder."""
    pool: Literal["mean", "max"] = "mean"
    """``mean``: one vector per image; ``max``: the region that fits a caption best."""


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
    learns = False  # there is no loss to minimise

    caption_table: Tensor  # (captions in the store, D); not part of a checkpoint

    def __init__(self, options: ClipOptions) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("caption_table", torch.zeros(0, options.image_dim), persistent=False)

    def prepare(self, store: Any, codebook: Any) -> None:
        """Compute or read the vectors of all captions of a store.

        Args:
            store: an open store.   codebook: not used; captions are read as text.

        Raises:
            ConfigError, MissingInput, InputError, MissingDependency: see ``embed_captions``.
            MismatchError: the vectors do not match the store or its region features.
        """
        del codebook
        texts = [str(text) for text in store.column("caption")]
        vectors = embed_captions(self.options.captions, texts)
        if vectors.shape != (len(texts), self.options.image_dim):
            raise MismatchError(
                f"{self.options.captions}: caption vectors have shape {tuple(vectors.shape)}, but "
                f"the store has {len(texts)} captions and region features of width "
                f"{self.options.image_dim}. Use vectors of the same CLIP and the same store."
            )
        self.caption_table = l2norm(vectors.float()).to(self.caption_table.device)

    def encode_images(self, images: ImageBatch) -> ClipImages:
        """Return unit vectors of the images; with ``pool: max`` also of their regions."""
        mask = images.object_mask
        regions = masked_l2norm(images.objects.float(), mask)
        pooled = l2norm(masked_mean(regions, mask.unsqueeze(-1), 1))
        if self.options.pool == "mean":
            regions, mask = regions[:, :0], mask[:, :0]
        return ClipImages(regions, mask, pooled)

    def encode_captions(self, captions: CaptionBatch) -> ClipCaptions:
        """Look the captions up by their row in the store.

        Raises: TrainingError: ``prepare`` was not called.
        """
        if not len(self.caption_table):
            raise TrainingError("clip has no caption vectors. Call prepare(store, codebook) first.")
        return ClipCaptions(self.caption_table[captions.rows])

    def score(self, images: ClipImages, captions: ClipCaptions) -> Tensor:
        """Return the cosines of all pairs: (I, C)."""
        if self.options.pool == "mean":
            return images.pooled @ captions.vectors.T
        scores = images.regions @ captions.vectors.T  # (I, K, C)
        return masked_max(scores, images.mask.unsqueeze(-1), 1)

    def plain_score(self, images: ClipImages, captions: ClipCaptions) -> Tensor:
        """Return the cosines of I images with one caption: (I, 1)."""
        if self.options.pool == "mean":
            return cosine(images.pooled, captions.vectors).unsqueeze(1)
        scores = cosine(images.regions, captions.vectors.unsqueeze(1))
        return masked_max(scores, images.mask, 1).unsqueeze(1)


def embed_captions(source: str, texts: list[str], batch_size: int = 256) -> Tensor:
    """Return one CLIP vector per text.

    Args:
        source: ``.npy`` file of vectors in the same order, or a local CLIP folder.
        texts: the captions.   batch_size: captions per step of the text tower.
    Returns: (len(texts), D) float32.

    Raises:
        ConfigError: the source is empty.   MissingInput: it does not exist.
        InputError: the file is not a numeric array.
        MissingDependency: a folder needs the package ``transformers``.
    """
    if not source:
        raise ConfigError(
            "clip needs the option 'captions'. Set it to an .npy file with one CLIP vector per "
            "caption, or to the folder of the CLIP that computed the region features."
        )
    path = Path(source)
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder. Check the option 'captions'.")
    if path.is_file():
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (ValueError, OSError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read as a numeric .npy array ({error})."
            ) from error
    try:  # optional
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
