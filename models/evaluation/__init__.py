"""Evaluation: scores of a split, recall, re-ranking, and files of results."""

from typing import TYPE_CHECKING

from features.registry import lazy_exports
from models.evaluation.agreement import Agreement, kendall
from models.evaluation.judgements import (
    Judgements,
    Pair,
    image_rows,
    read_judgements,
    score_pairs,
)
from models.evaluation.measure import evaluate_scores
from models.evaluation.metrics import (
    METRICS,
    Recall,
    chance,
    paired_bootstrap,
    paired_bootstraps,
    recall,
)
from models.evaluation.negatives import (
    Accuracy,
    Negatives,
    accuracies,
    compare_with_negatives,
    paired_scores,
)
from models.evaluation.parsing import parse_texts, read_graph, stored_profile
from models.evaluation.positives import describe, evaluate_positives, read_positives
from models.evaluation.results import (
    Protocol,
    Setting,
    document,
    file_stem,
    print_accuracies,
    print_agreement,
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
    "Accuracy",
    "Agreement",
    "Judgements",
    "Negatives",
    "Pair",
    "Protocol",
    "Recall",
    "Setting",
    "accuracies",
    "chance",
    "compare_with_negatives",
    "computing",
    "describe",
    "document",
    "evaluate_positives",
    "evaluate_scores",
    "file_stem",
    "image_rows",
    "kendall",
    "paired_bootstrap",
    "paired_bootstraps",
    "paired_scores",
    "parse_texts",
    "print_accuracies",
    "print_agreement",
    "print_differences",
    "print_positives",
    "print_table",
    "read_graph",
    "read_judgements",
    "read_positives",
    "read_ranks",
    "recall",
    "reference",
    "score_all",
    "score_pairs",
    "score_split",
    "stored_profile",
    "write_json",
    "write_positives",
    "write_queries",
    "write_ranks",
]

_SCORING = ("computing", "reference", "score_all", "score_split")
__getattr__ = lazy_exports(__name__, dict.fromkeys(_SCORING, "models.evaluation.scoring"))
