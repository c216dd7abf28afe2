"""SPICE: agreement of captions with reference captions, measured in tuples; needs no Java.

A caption becomes a set of tuples: (object), (object, attribute), (subject, predicate, object). The
references of one image are merged into one graph. A candidate tuple matches a reference tuple of
the same length if they agree in every position: equal lemmas, or a shared synset. The score of an
image is the F1 of its tuples; the score of a system is the mean over the images.

``spice(..., soft=True)`` compares the tuples by the embeddings of their phrases instead, and
averages their F1 with the similarity of the captions (docs/captions.md has the measurements).
``Spice`` has the interface of ``pycocoevalcap``.
"""

from pipeline.quality.caption_tuples import SUBSETS, tuples
from pipeline.quality.matching import ExactMatcher, Match, SoftMatcher
from pipeline.quality.metric import SpiceScores, spice
from pipeline.quality.scorer import Spice
from pipeline.quality.synonyms import caption_synonyms, wordnet_synsets

__all__ = [
    "SUBSETS",
    "ExactMatcher",
    "Match",
    "SoftMatcher",
    "Spice",
    "SpiceScores",
    "caption_synonyms",
    "spice",
    "tuples",
    "wordnet_synsets",
]
