"""The options that every model has."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DataOptions"]


@dataclass(frozen=True)
class DataOptions:
    """Sizes that follow from the store and its codebook; ``models.options_for`` fills them in."""

    image_dim: int = 2048
    """Width of one region feature."""
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    """Part-of-speech tags."""
