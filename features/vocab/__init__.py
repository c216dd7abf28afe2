"""Vocabularies: the ids that models see for words, labels, predicates and tags."""

from features.vocab.codebook import Codebook
from features.vocab.vectors import WordVectors, load_vectors

__all__ = ["Codebook", "WordVectors", "load_vectors"]
