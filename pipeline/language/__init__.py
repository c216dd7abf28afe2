"""Text graphs of captions: tokens, lemmas, dependencies, and SPICE-style extraction."""

from pipeline.language.dependency import SCHEMES, from_ud, to_ud
from pipeline.language.spice.attachment import (
    candidates,
    clause_cues,
    join_verbs,
    lower_conjuncts,
    phrase_cues,
    sites,
)
from pipeline.language.spice.clauses import Clauses
from pipeline.language.spice.rules import markdown
from pipeline.language.spice.triplets import PROFILES, RULES_VERSION, extract
from pipeline.language.tokenizer import tokenize
from pipeline.language.words import word_class

__all__ = [
    "PROFILES",
    "RULES_VERSION",
    "SCHEMES",
    "Clauses",
    "candidates",
    "clause_cues",
    "extract",
    "from_ud",
    "join_verbs",
    "lower_conjuncts",
    "markdown",
    "phrase_cues",
    "sites",
    "to_ud",
    "tokenize",
    "word_class",
]
