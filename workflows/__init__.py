"""When things run: Luigi tasks that build stores and launch training, evaluation and reports.

``luigi --module workflows BuildFlickr30k --local-scheduler --images-dir DIR --captions FILE
--store-dir DIR``; ``luigi-deps-tree --module workflows ...`` shows what depends on what.
"""

from workflows.add_text import AddText
from workflows.compare import CompareModels
from workflows.config import apply_defaults
from workflows.datasets import BuildCoco, BuildDataset, BuildFlickr30k
from workflows.demo import BuildDemo, Demo
from workflows.training import EvaluateModel, TrainModel

apply_defaults()

__all__ = [
    "AddText",
    "BuildCoco",
    "BuildDataset",
    "BuildDemo",
    "BuildFlickr30k",
    "CompareModels",
    "Demo",
    "EvaluateModel",
    "TrainModel",
]
