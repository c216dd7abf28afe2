"""TF-IDF of caption words and of detected labels and predicates, a baseline without pixels.

It is not trained by gradient: ``prepare`` counts the training captions once. It retrieves what
words alone can retrieve, so a learned model should beat it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from features.errors import TrainingError
from models.nn import DataOptions, l2norm
from models.registry import register

WORDS_PER_NAME = 4  # of a label or predicate: "standing next to" has three
SPECIALS = 4  # ids below this one are <pad>, <start>, <end>, <unk>


@dataclass(frozen=True)
class TfidfOptions(DataOptions):
    """Options of TF-IDF."""

    predicates: bool = True
    """Count the predicates of the visual relations as well."""
    lemmas: bool = True
    """Count a word as its lemma, so that ``dogs`` matches the label ``dog``."""
    sublinear: bool = True
    """1 + log(count) instead of the count."""
    attributes: bool = False
    """Count the attributes of the objects as well."""
    confidence: bool = False
    """For images, the probability that a word is right for any object or relation, from their
    scores, instead of the count."""


class TfidfCode(NamedTuple):
    """One weighted bag of words per item."""

    bags: Tensor  # (N, V), unit length


@register("tfidf", TfidfOptions)
class Tfidf(nn.Module):
    """Cosine of TF-IDF vectors; call ``prepare`` before scoring, or load a prepared state."""

    reads_unions = False
    learns = False  # there is no loss to minimise

    term_of_word: Tensor  # (V,) int64, id of each word's lemma
    label_terms: Tensor  # (n_labels, WORDS_PER_NAME) int64, 0 without a word
    predicate_terms: Tensor  # (n_predicates, WORDS_PER_NAME) int64
    idf: Tensor  # (V,), 0 for special words; all 0 before ``prepare``

    def __init__(self, options: TfidfOptions) -> None:
        super().__init__()
        self.options = options
        o = options
        self.register_buffer("term_of_word", torch.arange(o.vocab_size))
        for name, size in (("label_terms", o.n_labels), ("predicate_terms", o.n_predicates)):
            self.register_buffer(name, torch.zeros(size, WORDS_PER_NAME, dtype=torch.int64))
        self.register_buffer("idf", torch.zeros(o.vocab_size))

    def prepare(self, store: Any, codebook: Any) -> None:
        """Count the training captions of a store (all captions when it has no such split).

        Args:
            store: an open store.   codebook: gives the ids that batches use.
        """
        words = codebook.words
        if self.options.lemmas:
            lemmas = _lemma_of_form(store)
            for number in range(SPECIALS, len(words)):
                lemma = words.id(lemmas.get(words[number], words[number]))
                self.term_of_word[number] = lemma if lemma >= SPECIALS else number
        self._fill(self.label_terms, codebook.labels, words)
        self._fill(self.predicate_terms, codebook.predicates, words)
        seen, total = torch.zeros(len(words)), 0
        for split in ["train"] if "train" in store.splits else sorted(store.splits):
            for captions in store.caption_batches(split, 512, codebook):
                seen += (self._count(self.term_of_word[captions.words]) > 0).sum(0)
                total += len(captions.words)
        self.idf.copy_(torch.log((1.0 + total) / (1.0 + seen)) + 1.0)
        self.idf[:SPECIALS] = 0.0

    def _fill(self, terms: Tensor, names: Any, words: Any) -> None:
        """Fill in the terms of the words of each name."""
        terms.zero_()
        for row in range(2, len(names)):
            ids = [words.id(part) for part in re.split(r"[\s_/-]+", names[row].lower()) if part]
            known = [self.term_of_word[i] for i in ids if i >= SPECIALS][:WORDS_PER_NAME]
            for place, term in enumerate(known):
                terms[row, place] = term

    def _count(self, terms: Tensor) -> Tensor:
        """Count (N, T) terms: (N, V)."""
        counts = torch.zeros(len(terms), len(self.term_of_word), device=terms.device)
        return counts.scatter_add_(1, terms, torch.ones_like(terms, dtype=counts.dtype))

    def _damped(self, counts: Tensor) -> Tensor:
        """Return 1 + log(count) for positive counts if the options ask for it."""
        if not self.options.sublinear:
            return counts
        return torch.where(counts > 0, 1.0 + counts.clamp(min=1.0).log(), 0.0)

    def _weigh(self, values: Tensor) -> TfidfCode:
        if not bool(self.idf.any()):
            raise TrainingError("tfidf has no word counts. Call prepare(store, codebook) first.")
        return TfidfCode(l2norm(values * self.idf))

    def encode_images(self, images: ImageBatch) -> TfidfCode:
        """Return the bags of the labels (and predicates, attributes): (I, V)."""
        parts = [(self.label_terms[images.labels], images.scores)]
        if self.options.predicates:
            scores = images.relation_scores
            scores = torch.ones_like(images.predicates) if scores is None else scores
            parts.append((self.predicate_terms[images.predicates], scores))
        if self.options.attributes and images.attributes is not None:
            assert images.attribute_objects is not None
            assert images.attribute_scores is not None
            own = images.scores.gather(1, images.attribute_objects) * images.attribute_scores
            parts.append((self.term_of_word[images.attributes].unsqueeze(-1), own))
        terms = torch.cat([part.flatten(1) for part, _ in parts], 1)
        if not self.options.confidence:
            return self._weigh(self._damped(self._count(terms)))
        scores = torch.cat(
            [s.unsqueeze(-1).expand(part.shape).flatten(1) for part, s in parts], 1
        ).float()
        return self._weigh(self._any(terms, scores))

    def _any(self, terms: Tensor, scores: Tensor) -> Tensor:
        """Return the probability that any of the (N, T) mentions of each term is right: (N, V)."""
        misses = torch.zeros(len(terms), len(self.term_of_word), device=terms.device)
        wrong = torch.log1p(-scores.clamp(0, 1 - 1e-4))
        return 1 - misses.scatter_add_(1, terms, wrong).exp()

    def encode_captions(self, captions: CaptionBatch) -> TfidfCode:
        """Return the bags of the words: (C, V)."""
        return self._weigh(self._damped(self._count(self.term_of_word[captions.words])))

    def score(self, images: TfidfCode, captions: TfidfCode) -> Tensor:
        """Return the cosines of all pairs: (I, C)."""
        return images.bags @ captions.bags.T

    def plain_score(self, images: TfidfCode, captions: TfidfCode) -> Tensor:
        """Return the cosines of I images with one caption: (I, 1)."""
        return (images.bags * captions.bags).sum(1, keepdim=True)


def _lemma_of_form(store: Any) -> dict[str, str]:
    """Return the most frequent lemma of each lower-cased form in the store."""
    forms, lemmas = store.coded("form"), store.coded("lemma")
    lower = [name.lower() for name in forms.names]
    ids = {name: number for number, name in enumerate(sorted(set(lower)))}
    tokens = np.array([ids[name] for name in lower], np.int64)[forms.codes]
    width = max(1, len(lemmas.names))
    pairs, counts = np.unique(tokens * width + lemmas.codes, return_counts=True)
    names = list(ids)
    return {  # the most frequent lemma of a form is written last
        names[pair // width]: lemmas.names[pair % width].lower()
        for pair in pairs[np.argsort(counts, kind="stable")].tolist()
    }
