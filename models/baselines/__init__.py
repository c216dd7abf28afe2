"""Baselines: SCAN, VSE, zero-shot CLIP, TF-IDF and label bags."""

from models.baselines.label_bags import label_bag_scores

__all__ = ["label_bag_scores"]
