"""Evaluation of detectors and relation predictors."""

from pipeline.evaluation.detections import coco_ap, entities_recall, predicate_quality

__all__ = ["coco_ap", "entities_recall", "predicate_quality"]
