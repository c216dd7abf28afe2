"""Training: data of a run, optimiser, loop, checkpoints and the run folder."""

from typing import TYPE_CHECKING

from features.registry import lazy_exports
from models.training.data import Data, check_split, make_model, open_data
from models.training.lineage import libraries, run_metadata, store_keys
from models.training.logs import MetricsFile, read_metrics
from models.training.run import Run, RunFolder, load_run

if TYPE_CHECKING:
    from models.training.checkpoint import check_weights, save_best, weights_digest
    from models.training.synthetic import random_captions, random_images
    from models.training.trainer import Stopped, Trainer

__all__ = [
    "Data",
    "MetricsFile",
    "Run",
    "RunFolder",
    "Stopped",
    "Trainer",
    "check_split",
    "check_weights",
    "libraries",
    "load_run",
    "make_model",
    "open_data",
    "random_captions",
    "random_images",
    "read_metrics",
    "run_metadata",
    "save_best",
    "store_keys",
    "weights_digest",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Stopped": "models.training.trainer",
        "Trainer": "models.training.trainer",
        "check_weights": "models.training.checkpoint",
        "random_captions": "models.training.synthetic",
        "random_images": "models.training.synthetic",
        "save_best": "models.training.checkpoint",
        "weights_digest": "models.training.checkpoint",
    },
)
