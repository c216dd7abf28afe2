"""The packaged detectors; ``pipeline.vision.detection`` loads them by name."""
