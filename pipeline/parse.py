"""Captions -> parsed captions: the parser protocol, its registry and the one-call interface.

Two steps, so that a change of rules never parses again: a parser fills tokens, tags, lemmas and
dependencies of a ``TextGraph``; ``pipeline.language.spice.triplets.extract`` adds roles, objects, attributes and
relations under a profile. ``parse`` does both. A parser of your own is any object with ``name``,
``version`` and ``parse``; register it with ``PARSERS.register`` or as an entry point of the group
``scenestore.parsers``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from features.errors import UnknownName, UsageError
from features.records import TextGraph
from features.registry import Registry
from pipeline.language.dependency import SCHEMES, convert
from pipeline.language.spice.triplets import PROFILES, extract

__all__ = ["PARSERS", "PARSE_VERSION", "CaptionParser", "load_parser", "parse"]

PARSE_VERSION = "1"  # bump when tokens, lemmas or dependencies change


class CaptionParser(Protocol):
    """What a caption parser offers.

    Attributes:
        name: registry name.
        version: changes whenever the same caption may be parsed differently (model and package).
    """

    name: str
    version: str

    def parse(self, captions: list[str]) -> list[TextGraph]:
        """Return one graph per caption, in order: tokens, lemmas, tags, heads, deprels, problem.

        ``scheme`` of each graph tells how to read heads and deprels. No caption raises: what
        cannot be parsed comes back with ``problem`` set.
        """
        ...


PARSERS: Registry[CaptionParser] = Registry("parser", "scenestore.parsers")


@PARSERS.register("spacy")
def _spacy(**options: object) -> CaptionParser:
    from pipeline.language.parsers.spacy import SpacyParser

    return SpacyParser(**options)  # type: ignore[arg-type]


@PARSERS.register("stanza")
def _stanza(**options: object) -> CaptionParser:
    from pipeline.language.parsers.stanza import StanzaParser

    return StanzaParser(**options)  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def _loaded(name: str, options: tuple[tuple[str, object], ...]) -> CaptionParser:
    return PARSERS.create(name, **dict(options))


def load_parser(name: str, **options: object) -> CaptionParser:
    """Return the parser called ``name``; a process loads each parser once.

    Args:
        name: ``spacy``, ``stanza`` or a registered plug-in.
        options: of that parser, for example ``model=`` for spaCy, ``model_dir=`` for Stanza.

    Raises:
        UnknownName: no such parser.
        MissingDependency: its package or model is not installed.
    """
    try:
        return _loaded(name, tuple(sorted(options.items())))
    except TypeError as error:
        if "unhashable" in str(error):
            return PARSERS.create(name, **options)
        raise UsageError(f"parser {name!r} does not take these options: {error}") from error


def parse(
    captions: Iterable[str],
    parser: str = "spacy",
    profile: str = "extended",
    scheme: str = "ud",
    **options: object,
) -> list[TextGraph]:
    """Parse captions into dependency graphs and SPICE-style scene graphs.

    Args:
        captions: any number of captions.
        parser: ``spacy`` or ``stanza``.
        profile: ``extended`` (for training: clauses, passives, complements) or ``spice`` (what
            SPICE extracts, with what it leaves out).
        scheme: scheme of the heads and labels that come back: ``ud`` (UD v2), ``ud1-basic``
            (Stanford basic dependencies as GSMN used them) or ``clear`` (spaCy's own).
        options: of the parser.

    Returns:
        One ``TextGraph`` per caption, in order.

    Raises:
        UnknownName: parser, profile or scheme.
        MissingDependency: the parser's package or model.
    """
    texts = [captions] if isinstance(captions, str) else list(captions)
    for what, value, known in (("profile", profile, PROFILES), ("scheme", scheme, SCHEMES)):
        if value not in known:
            raise UnknownName.of(what, value, known)
    graphs = extract(load_parser(parser, **options).parse(texts), profile)
    return [_in_scheme(graph, scheme) for graph in graphs]


def _in_scheme(graph: TextGraph, scheme: str) -> TextGraph:
    """Return the graph with heads and labels of another scheme."""
    if graph.scheme == scheme:
        return graph
    heads, deprels = convert(graph, scheme)
    return replace(graph, heads=tuple(heads), deprels=tuple(deprels), scheme=scheme)
