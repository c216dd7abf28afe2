"""Evaluation of detectors and relation predictors."""
