"""Vocabularies: the ids that models see for words, labels, predicates and tags."""

from features.vocab.codebook import Codebook
from features.vocab.minilm import minilm_folder, read_tensors
from features.vocab.parts import PARTS, feature_slices
from features.vocab.vectors import WordVectors, load_vectors
from features.vocab.wordpiece import WordPiece

__all__ = [
    "PARTS",
    "Codebook",
    "WordPiece",
    "WordVectors",
    "feature_slices",
    "load_vectors",
    "minilm_folder",
    "read_tensors",
]
