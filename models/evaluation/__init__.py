"""Evaluation: scores of a split, recall, re-ranking, and files of results."""

from typing import TYPE_CHECKING

from features.registry import lazy_exports
from models.evaluation.measure import evaluate_scores
from models.evaluation.metrics import (
    METRICS,
    Recall,
    chance,
    paired_bootstrap,
    paired_bootstraps,
    recall,
)
from models.evaluation.positives import describe, evaluate_positives, read_positives
from models.evaluation.results import (
    Setting,
    document,
    file_stem,
    print_differences,
    print_positives,
    print_table,
    read_ranks,
    write_json,
    write_positives,
    write_queries,
    write_ranks,
)

if TYPE_CHECKING:
    from models.evaluation.scoring import computing, reference, score_all, score_split

__all__ = [
    "METRICS",
    "Recall",
    "Setting",
    "chance",
    "computing",
    "describe",
    "document",
    "evaluate_positives",
    "evaluate_scores",
    "file_stem",
    "paired_bootstrap",
    "paired_bootstraps",
    "print_differences",
    "print_positives",
    "print_table",
    "read_positives",
    "read_ranks",
    "recall",
    "reference",
    "score_all",
    "score_split",
    "write_json",
    "write_positives",
    "write_queries",
    "write_ranks",
]

_SCORING = ("computing", "reference", "score_all", "score_split")
__getattr__ = lazy_exports(__name__, dict.fromkeys(_SCORING, "models.evaluation.scoring"))
