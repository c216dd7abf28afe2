"""Image-text matching models, their training and their evaluation.

Importing this package does not load torch; the first model or score does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from models.registry import build_options, create, list_models, options_class, options_for, register

if TYPE_CHECKING:
    from models.evaluation.metrics import recall
    from models.evaluation.scoring import reference, score_all
    from models.released.checkpoints import load_official

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

_LAZY = {
    "load_official": "models.released.checkpoints",
    "recall": "models.evaluation.metrics",
    "reference": "models.evaluation.scoring",
    "score_all": "models.evaluation.scoring",
}


def __getattr__(name: str) -> object:
    """Import a module that loads torch when one of its names is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
