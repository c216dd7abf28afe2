"""A model plug-in: the mean of the regions against the mean of the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

import models
from models.nn import l2norm, masked_mean, negative_mask, triplet_loss


@dataclass(frozen=True)
class Options:
    """Options of the model; ``image_dim`` and ``vocab_size`` are filled in from the store."""

    image_dim: int = 2048
    vocab_size: int = 10000
    embed_dim: int = 256


class Codes(NamedTuple):
    vectors: Tensor  # (N, embed_dim), unit length


@models.register("mean-pool", Options)
class MeanPool(nn.Module):
    reads_unions = False  # batches come without the features of union boxes

    def __init__(self, options):
        super().__init__()
        self.options = options
        self.regions = nn.Linear(options.image_dim, options.embed_dim)
        self.words = nn.Embedding(options.vocab_size, options.embed_dim)

    def encode_images(self, images):
        regions = self.regions(images.objects.float())  # stored features are float16
        return Codes(l2norm(masked_mean(regions, images.object_mask.unsqueeze(-1), 1)))

    def encode_captions(self, captions):
        words = self.words(captions.words)
        return Codes(l2norm(masked_mean(words, captions.word_mask.unsqueeze(-1), 1)))

    def score(self, images, captions):
        return images.vectors @ captions.vectors.T  # (n_images, n_captions)

    def loss(self, images, captions, exchange):
        scores = exchange.scores(self, images, captions)  # of the whole batch, on every rank
        negatives = negative_mask(exchange.rows(captions.image_rows))
        return triplet_loss(scores, negatives, hard_negatives=False)
