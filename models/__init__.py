"""Image-text matching models, their training and their evaluation.

Importing this package does not load torch; the first model or score does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.registry import lazy_exports
from models.registry import build_options, create, list_models, options_class, options_for, register

if TYPE_CHECKING:
    from models.evaluation import recall, reference, score_all
    from models.released import load_official

__all__ = [
    "build_options",
    "create",
    "list_models",
    "load_official",
    "options_class",
    "options_for",
    "recall",
    "reference",
    "register",
    "score_all",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "load_official": "models.released",
        "recall": "models.evaluation",
        "reference": "models.evaluation",
        "score_all": "models.evaluation",
    },
)
