"""Luigi tasks that train, evaluate and compare models."""

from workflows.experiments.compare import CompareModels
from workflows.experiments.training import EvaluateModel, TrainModel

__all__ = ["CompareModels", "EvaluateModel", "TrainModel"]
