"""Synonyms for SPICE: the nouns of captions in a packaged list, or an installed WordNet."""

from __future__ import annotations

from functools import lru_cache

from features.errors import MissingDependency, MissingInput
from features.finding import synonym_groups
from pipeline.quality.caption_tuples import Synsets


def caption_synonyms() -> Synsets:
    """Return a function from a lemma to its groups in the packaged list of caption synonyms.

    The list has common nouns of photo captions that name the same thing in most of them, such as
    bike and bicycle. WordNet has more synonyms, but also senses that captions rarely mean.
    """
    known = synonym_groups()
    none: frozenset[str] = frozenset()
    return lambda lemma: known.get(lemma, none)


def wordnet_synsets(lexicon: str = "oewn:2024") -> Synsets:
    """Return a function from a lemma to its synset ids in an installed WordNet.

    Args:
        lexicon: name of the lexicon for the package ``wn``.

    Raises:
        MissingDependency: the package ``wn`` is not installed.
        MissingInput: the lexicon has not been downloaded.
    """
    try:
        import wn  # type: ignore[import-not-found, unused-ignore]  # optional
    except ImportError as error:
        raise MissingDependency.of("wn", "SPICE with synonyms", "pip install wn") from error
    try:
        wordnet = wn.Wordnet(lexicon)
    except wn.Error as error:
        raise MissingInput(
            f"WordNet {lexicon!r} is not installed ({error}). Run: python -m wn download {lexicon}"
        ) from error

    @lru_cache(maxsize=100_000)
    def synsets(lemma: str) -> frozenset[str]:
        return frozenset(synset.id for synset in wordnet.synsets(lemma))

    return synsets
