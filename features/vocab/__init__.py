"""Vocabularies: the ids that models see for words, labels, predicates and tags."""
