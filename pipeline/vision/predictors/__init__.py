"""The packaged relation predictors; ``pipeline.vision.relations`` loads them by name."""
