"""A caption parser of your own: import this module, then ask for ``parser="plain"``."""

from __future__ import annotations

from features.records import TextGraph
from pipeline.parse import parsers


@parsers.register("plain")
class PlainParser:
    """Splits at spaces and hangs every word on the first: fast, and good for nothing else."""

    name = "plain"
    version = "1"

    def parse(self, captions: list[str]) -> list[TextGraph]:
        return [self._one(caption) for caption in captions]

    def _one(self, caption: str) -> TextGraph:
        words = tuple(caption.rstrip(".").split())
        if not words:
            return TextGraph(caption=caption, problem="empty")
        lemmas, rest = tuple(word.lower() for word in words), len(words) - 1
        return TextGraph(
            caption, words, lemmas, ("NOUN",) * len(words), ("NN",) * len(words),
            heads=(-1, *(0,) * rest), deprels=("root", *("dep",) * rest),
        )  # fmt: skip
