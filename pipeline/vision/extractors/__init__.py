"""The packaged feature extractors; ``pipeline.vision.extraction`` loads them by name."""
