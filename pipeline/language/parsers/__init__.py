"""The packaged caption parsers; ``pipeline.parse`` loads them by name."""
