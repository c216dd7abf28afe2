"""Evaluation: scores of a split, recall, re-ranking, and files of results."""
