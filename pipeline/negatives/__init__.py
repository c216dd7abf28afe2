"""Compositional hard negatives: captions changed by their parse so that they are false."""

from pipeline.negatives.building import NEGATIVES_VERSION, Report, write_negatives
from pipeline.negatives.making import KINDS, Negative, make

__all__ = [
    "KINDS",
    "NEGATIVES_VERSION",
    "Negative",
    "Report",
    "make",
    "write_negatives",
]
