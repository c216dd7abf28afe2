"""Luigi tasks that build stores, and train, evaluate and compare models.

``luigi --module workflows BuildFlickr30k --local-scheduler --images-dir DIR --captions FILE
--store-dir DIR``; ``luigi-deps-tree --module workflows ...`` prints the tasks and what they
require.
"""

from workflows.interrupts import end_at_once

with end_at_once():  # Ctrl-C while a second of imports goes by; afterwards the settings handle it
    from workflows.build import AddText, BuildCoco, BuildDataset, BuildFlickr8k, BuildFlickr30k
    from workflows.demo import BuildDemo, Demo
    from workflows.experiments import CompareModels, EvaluateModel, TrainModel
    from workflows.settings import apply_defaults

    apply_defaults()

__all__ = [
    "AddText",
    "BuildCoco",
    "BuildDataset",
    "BuildDemo",
    "BuildFlickr8k",
    "BuildFlickr30k",
    "CompareModels",
    "Demo",
    "EvaluateModel",
    "TrainModel",
]
