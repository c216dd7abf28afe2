"""Parse captions into dependency graphs and SPICE-style scene graphs; the registry of parsers.

Parsing has two steps, so that a change of the extraction rules needs no new parse: a parser fills
in tokens, tags, lemmas and dependencies of a ``TextGraph``, then ``extract`` (see
``pipeline.language.spice.triplets``) adds roles, objects, attributes and relations. ``parse`` does
both. To add a parser, write a class with the members of ``Parser`` and register it with the
decorator ``parsers.register(name)`` or as an entry point of the group ``scenestore.parsers``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from features.convert import clean_text
from features.errors import PluginError, UnknownName, UsageError
from features.records import TextGraph
from features.registry import Registry
from pipeline.boundary import Call, checked_parses
from pipeline.language import PROFILES, SCHEMES, extract, from_ud, to_ud

__all__ = [
    "PARSE_VERSION",
    "Parser",
    "load_parser",
    "parse",
    "parser_version",
    "parsers",
    "run_parser",
]

PARSE_VERSION = "1"  # increase when tokens, lemmas or dependencies change


class Parser(Protocol):
    """Interface of a caption parser.

    Attributes:
        name: registered name.
        version: part of the content key; must change whenever parses can change, for example with
            the model or its package.

    A parser whose ``version`` is known only once its model is loaded may also have a static method
    ``identify(**options)``, which returns the version from package metadata and raises what loading
    would raise. A build with nothing to do then does not load the model.
    """

    name: str
    version: str

    def parse(self, captions: list[str]) -> list[TextGraph]:
        """Return one graph per caption, in order: tokens, lemmas, tags, heads, deprels, problem.

        ``scheme`` names the dependency scheme of heads and deprels. No caption may raise: those
        that cannot be parsed are returned with ``problem`` set.
        """
        ...


parsers: Registry[Parser] = Registry(
    "parser",
    "scenestore.parsers",
    {
        "spacy": "pipeline.language.parsers.spacy:SpacyParser",
        "stanza": "pipeline.language.parsers.stanza:StanzaParser",
    },
    Parser,
)


@lru_cache(maxsize=4)
def _loaded(name: str, options: tuple[tuple[str, object], ...]) -> Parser:
    return parsers.create(name, **dict(options))


def load_parser(name: str, **options: object) -> Parser:
    """Return the parser called ``name``; a process loads each parser once.

    Args:
        name: ``spacy``, ``stanza`` or a registered plug-in.
        options: options of the parser, for example ``model=`` for spaCy, ``model_dir=`` for Stanza.

    Raises:
        UnknownName: no parser has this name.
        UsageError: the parser has no such option.
        MissingDependency: its package or model is not installed.
    """
    try:
        return _loaded(name, tuple(sorted(options.items())))
    except TypeError:  # an option that cannot be hashed, so the parser cannot be cached
        return parsers.create(name, **options)


def parser_version(name: str) -> tuple[str, str]:
    """Return name and version of a parser, without loading its model if the parser allows it.

    Raises: as ``load_parser``.
    """
    key, colon, argument = name.partition(":")
    entry = parsers.get(key)
    known = getattr(entry, "name", None), getattr(entry, "version", None)
    if hasattr(entry, "identify"):
        return str(known[0] or key), str(entry.identify(*((argument,) if colon else ())))
    if isinstance(known[0], str) and isinstance(known[1], str):
        return known[0], known[1]
    parser = load_parser(name)
    return parser.name, parser.version


def run_parser(parser: Parser, captions: Sequence[str]) -> list[TextGraph]:
    """Return one checked graph per caption, in order.

    Raises: PluginError: the parser failed; the message names the first caption that it fails on.
    """
    call = Call.of("parser", parser, f"{len(captions)} captions")
    try:
        with call.guarded():
            graphs: object = parser.parse(list(captions))
        return checked_parses(call, graphs, captions)
    except PluginError:
        if len(captions) == 1:
            raise
        middle = len(captions) // 2
        for part in (captions[:middle], captions[middle:]):
            run_parser(parser, part)
        raise  # no part fails alone


def parse(
    captions: Iterable[str],
    parser: str = "spacy",
    profile: str = "extended",
    scheme: str = "ud",
    **options: object,
) -> list[TextGraph]:
    """Parse captions into dependency graphs and SPICE-style scene graphs.

    Args:
        captions: the captions (or a single one).
        parser: ``spacy``, ``stanza`` or a registered plug-in.
        profile: ``extended`` (for training: also clauses, passives, complements) or ``spice`` (the
            tuples of SPICE 1.0, including what it omits).
        scheme: dependency scheme of the returned heads and labels: ``ud`` (UD v2), ``ud1-basic``
            (Stanford basic dependencies, used by GSMN) or ``clear`` (spaCy's).
        options: options of the parser.

    Returns:
        One ``TextGraph`` per caption, in order. Captions are cleaned first as a build cleans them:
        typographic apostrophes and soft hyphens, for example, do not change the graph.

    Raises:
        UnknownName: no such parser, profile or scheme.
        UsageError: a caption is no text.
        MissingDependency: the parser's package or model is not installed.
        PluginError: the parser failed.
    """
    given = [captions] if isinstance(captions, str) else list(captions)
    for at, text in enumerate(given):
        if not isinstance(text, str):
            raise UsageError(f"caption {at} is {text!r:.60}, not text.")
    texts = [clean_text(text) for text in given]
    if scheme not in SCHEMES:
        raise UnknownName.of("scheme", scheme, SCHEMES)
    if profile not in PROFILES:
        raise UnknownName.of("profile", profile, PROFILES)
    parsed = [to_ud(graph) for graph in run_parser(load_parser(parser, **options), texts)]
    graphs = [from_ud(graph, scheme) for graph in extract(parsed, profile)]
    return [replace(graph, caption=text) for graph, text in zip(graphs, given, strict=True)]
