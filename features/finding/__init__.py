"""Find images by what their scene graphs say: ``dog - catch - frisbee``."""

from features.finding.matching import SOURCES, Matches, find, unknown_words
from features.finding.query import Query, parse_query
from features.finding.sheet import contact_sheet
from features.finding.words import lemmas, same_word, synonym_groups

__all__ = [
    "SOURCES",
    "Matches",
    "Query",
    "contact_sheet",
    "find",
    "lemmas",
    "parse_query",
    "same_word",
    "synonym_groups",
    "unknown_words",
]
