"""SPICE with the interface of ``pycocoevalcap``, for scripts that evaluate several metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from features.errors import UsageError
from pipeline.quality.caption_tuples import SUBSETS, Synsets
from pipeline.quality.matching import Match
from pipeline.quality.metric import spice

# our subset -> its name in pycocoevalcap
_NAMES = {"all": "All"} | {name: name.capitalize() for name in SUBSETS} | {"colour": "Color"}


class Spice:
    """A scorer that takes the place of ``pycocoevalcap.spice.spice.Spice``; needs no Java.

    >>> scorer = Spice()
    >>> score, images = scorer.compute_score({7: ["A dog runs."]}, {7: ["A dog runs."]})
    >>> score, images[0]["All"]["f"]
    (1.0, 1.0)

    Args:
        soft, synsets, parser, options: see ``spice``.
    """

    def __init__(
        self,
        *,
        soft: bool = False,
        synsets: Synsets | None = None,
        parser: str = "spacy",
        **options: object,
    ) -> None:
        self.soft, self.synsets, self.parser, self.options = soft, synsets, parser, options

    def compute_score(
        self, gts: Mapping[Any, Sequence[Any]], res: Mapping[Any, Sequence[Any]]
    ) -> tuple[float, list[dict[str, dict[str, float]]]]:
        """Score the captions of ``res`` against those of ``gts``.

        Args:
            gts: image id -> its references: texts, or dicts with the key ``caption``.
            res: image id -> a list with its one candidate; the same ids.

        Returns:
            The mean score, and for each image in the order of the sorted ids: ``All``, ``Object``,
            ``Attribute``, ``Relation``, ``Cardinality``, ``Color``, ``Size`` -> ``f``, ``pr``,
            ``re``, which are NaN where an image has no such tuples. ``All`` has the image's score
            as ``f``.

        Raises: UsageError: the ids differ, or a list has the wrong length or no texts.
        """
        if set(gts) != set(res):
            only = sorted(map(repr, set(gts) ^ set(res)))
            raise UsageError(
                f"gts and res have different image ids, {only[0]} is only in one of them "
                f"({len(only)} such ids). Pass the same ids."
            )
        try:
            ids = sorted(gts)
        except TypeError:  # ids of several types
            ids = sorted(gts, key=repr)
        for image in ids:
            if isinstance(res[image], str | Mapping) or len(res[image]) != 1:
                raise UsageError(f"res[{image!r}] must be a list with one caption.")
            if isinstance(gts[image], str | Mapping) or not len(gts[image]):
                raise UsageError(f"gts[{image!r}] must be a list with at least one caption.")
        scores = spice(
            [_text(res[image][0], f"res[{image!r}]") for image in ids],
            [[_text(item, f"gts[{image!r}]") for item in gts[image]] for image in ids],
            parser=self.parser,
            synsets=self.synsets,
            soft=self.soft,
            **self.options,
        )
        return scores.score, [
            {shown: _numbers(found.get(name)) for name, shown in _NAMES.items()}
            for found in scores.matches
        ]

    def method(self) -> str:
        """Return the name of the metric."""
        return "Soft SPICE" if self.soft else "SPICE"


def _text(item: Any, where: str) -> str:
    text = item.get("caption") if isinstance(item, Mapping) else item
    if not isinstance(text, str):
        raise UsageError(f"{where} has {item!r}: expected a text or a dict with 'caption'.")
    return text


def _numbers(match: Match | None) -> dict[str, float]:
    if match is None:
        return dict.fromkeys(("f", "pr", "re"), float("nan"))
    return {"f": match.score, "pr": match.precision, "re": match.recall}
