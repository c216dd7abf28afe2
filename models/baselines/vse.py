"""VSE: one vector per image and per caption, as in VSE++ (Faghri et al., BMVC 2018).

Regions are projected and pooled, and so are the words of a caption; the score is a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from features.batches import CaptionBatch, ImageBatch
from models.nn import (
    BertText,
    GruText,
    TripletNetwork,
    TripletOptions,
    cosine,
    l2norm,
    last_state,
    masked_max,
    masked_mean,
    xavier_linear,
)
from models.registry import register


@dataclass(frozen=True)
class VseOptions(TripletOptions):
    """Options of VSE."""

    text_encoder: Literal["gru", "bert"] = "gru"
    bert: str = "minilm"
    """Folder of a BERT, or the packaged MiniLM."""
    image_pool: Literal["mean", "max"] = "mean"
    text_pool: Literal["last", "mean", "max"] = "mean"
    """``last`` is the state at ``<end>``."""


class VseCode(NamedTuple):
    """One unit vector per item."""

    vectors: Tensor  # (N, D)


def _pool(features: Tensor, mask: Tensor, how: str) -> Tensor:
    """Pool (N, K, D) over the real rows of each item."""
    if how == "last":
        return last_state(features, mask.sum(1))
    pool = masked_max if how == "max" else masked_mean
    return pool(features, mask.unsqueeze(-1), 1)


@register("vse", VseOptions)
class Vse(TripletNetwork[VseOptions]):
    """Global embeddings of both sides."""

    reads_unions = False

    def __init__(self, options: VseOptions) -> None:
        super().__init__(options)
        self.fc = xavier_linear(options.image_dim, options.embed_dim)
        self.text: GruText | BertText = (
            BertText(options.bert, options.embed_dim)
            if options.text_encoder == "bert"
            else GruText(options.vocab_size, options.word_dim, options.embed_dim)
        )
        if isinstance(self.text, GruText):
            self.word_tables = (self.text.embed,)

    def encode_images(self, images: ImageBatch) -> VseCode:
        """Return (I, D) unit vectors."""
        regions = self.fc(images.objects.to(self.fc.weight.dtype))
        return VseCode(l2norm(_pool(regions, images.object_mask, self.options.image_pool)))

    def encode_captions(self, captions: CaptionBatch) -> VseCode:
        """Return (C, D) unit vectors."""
        if isinstance(self.text, BertText):
            words, mask = self.text.encode_pieces(captions)
        else:
            words, mask = self.text(captions.words, captions.word_mask), captions.word_mask
        return VseCode(l2norm(_pool(words, mask, self.options.text_pool)))

    def score(self, images: VseCode, captions: VseCode) -> Tensor:
        """Return the cosines of all pairs: (I, C)."""
        return images.vectors @ captions.vectors.T

    def plain_score(self, images: VseCode, captions: VseCode) -> Tensor:
        """Return the cosines of I images with one caption: (I, 1)."""
        return cosine(images.vectors, captions.vectors).unsqueeze(1)
