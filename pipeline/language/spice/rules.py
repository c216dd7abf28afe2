"""The extraction rules as a table: name, profile, pattern, example and resulting tuples.

The table is ``pipeline/language/data/rules.json``. ``docs/rules.md`` is generated from it (``python
-m pipeline rules``), and every example is run as a test. A rule is implemented by the method of
``pipeline.language.spice.triplets`` whose docstring names it, or by
``pipeline.language.spice.clauses``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.language.words import read_data


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: short name, unique.
        profile: ``both``, ``spice`` or ``extended``.
        pattern: what the rule matches, in UD terms.
        example: a caption.
        attributes: all (object, attribute) pairs of the caption.
        relations: all (subject, predicate, object) triplets of the caption.
    """

    name: str
    profile: str
    pattern: str
    example: str
    attributes: tuple[tuple[str, ...], ...] = ()
    relations: tuple[tuple[str, ...], ...] = ()


def rules() -> list[Rule]:
    """Return all rules, in the order of the table."""
    return [
        Rule(
            attributes=tuple(map(tuple, row.pop("attributes", ()))),
            relations=tuple(map(tuple, row.pop("relations", ()))),
            **row,
        )
        for row in json.loads(read_data("rules.json"))
    ]


def markdown() -> str:
    """Return the table as the page docs/rules.md."""
    lines = []
    heads = {"both": "Both profiles", "extended": "Only `extended`", "spice": "Only `spice`"}
    for profile, head in heads.items():
        lines += [f"## {head}", "", "| rule | pattern | example | tuples |", "|---|---|---|---|"]
        for rule in rules():
            if rule.profile == profile:
                tuples = [f"({', '.join(t)})" for t in (*rule.attributes, *rule.relations)]
                cells = (rule.name, rule.pattern, rule.example, " ".join(tuples) or "none")
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return read_data("rules.md") + "\n".join(lines)
