"""The extraction rules as a table: name, profile, pattern, example and resulting tuples.

``docs/rules.md`` is generated from this table (``python -m pipeline rules``), and every example is
run as a test. A rule is implemented by the method of ``pipeline.language.spice.triplets`` whose
docstring names it, or by ``pipeline.language.spice.clauses``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "Rule", "markdown"]


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
    attributes: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()


# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("svo", "both", "verb with nsubj N and obj or iobj N",
         "A man is riding a horse.", (), (("man", "ride", "horse"),)),
    Rule("two-objects", "both", "verb with iobj and obj: one relation each",
         "A vendor hands a customer a cone.", (),
         (("vendor", "hand", "customer"), ("vendor", "hand", "cone"))),
    Rule("verb-phrase", "both", "verb with nsubj N and obl N: predicate = verb + preposition",
         "A man sits on a bench.", (), (("man", "sit on", "bench"),)),
    Rule("participle", "both", "verb that modifies a noun (acl): the noun is its subject",
         "A cat sitting in a chair.", (), (("cat", "sit in", "chair"),)),
    Rule("particle", "both", "compound:prt joins the predicate",
         "A worker picks up a box.", (), (("worker", "pick up", "box"),)),
    Rule("agent", "both", "passive with nsubj:pass and a by-phrase: the agent is the subject",
         "The grass was eaten by horses.", (), (("horse", "eat", "grass"),)),
    Rule("intransitive", "both", "verb with nsubj N and no argument: attribute of the subject",
         "A woman is smiling.", (("woman", "smile"),)),
    Rule("be-noun", "both", "noun with cop: attribute",
         "The man is a rider.", (("man", "rider"),)),
    Rule("be-adjective", "both", "adjective with nsubj, and its conjuncts: attributes",
         "The dogs are wet and muddy.", (("dog", "wet"), ("dog", "muddy"))),
    Rule("be-phrase", "both", "noun with cop and case: relation with the preposition",
         "A woman is in the house.", (), (("woman", "in", "house"),)),
    Rule("multiword", "both", "listed prepositions of two or three words are one predicate",
         "A statue is in front of the library.", (), (("statue", "in front of", "library"),)),
    Rule("there", "both", "there is N: N is the subject, its phrase gives a relation",
         "There is a small bird on the wire.", (("bird", "small"),), (("bird", "on", "wire"),)),
    Rule("amod", "both", "adjective or participle before its noun: attribute, verbs as lemma",
         "A small smiling girl.", (("girl", "small"), ("girl", "smile"))),
    Rule("phrase", "both", "noun with nmod N: relation with the preposition",
         "A cup on a table.", (), (("cup", "on", "table"),)),
    Rule("possessor", "both", "nmod:poss N: relation have",
         "A man's watch.", (), (("man", "have", "watch"),)),
    Rule("pronoun", "both",
         "a pronoun refers to the tree's first noun, breadth-first, if left of it",
         "A boy rides his bike.", (), (("boy", "ride", "bike"), ("boy", "have", "bike"))),
    Rule("compound", "both", "noun that modifies a noun: attribute, not an object",
         "A yellow fire hydrant.", (("hydrant", "yellow"), ("hydrant", "fire"))),
    Rule("coverage", "both", "noun + past participle + noun: the first noun is the subject",
         "A tree covered hill.", (), (("tree", "cover", "hill"),)),
    Rule("conjunction", "both", "conjoined nouns share the relations of the first",
         "A man and a woman walk across a bridge.", (),
         (("man", "walk across", "bridge"), ("woman", "walk across", "bridge"))),
    Rule("verb-conjunction", "both", "conjoined verbs share the subject",
         "A man sits on a crate and reads a newspaper.", (),
         (("man", "sit on", "crate"), ("man", "read", "newspaper"))),
    Rule("number", "both", "numeral left of a plural noun: attribute as written",
         "Two dogs run.", (("dog", "two"), ("dog", "run"))),
    Rule("quantifier", "both", "lots of N, some of the N: N replaces the quantifier",
         "Lots of dogs run.", (("dog", "lots"), ("dog", "run"))),
    Rule("collective", "both", "group, crowd, team ... of N are objects",
         "A group of people stands around a fire.", (),
         (("group", "of", "people"), ("group", "stand around", "fire"))),
    Rule("colour-noun", "both", "a colour in the position of a noun is an object",
         "A man in black holds a sign.", (), (("man", "in", "black"), ("man", "hold", "sign"))),
    Rule("relative-subject", "extended", "acl:relcl whose subject is the pronoun",
         "A woman who is wearing a scarf sings.", (("woman", "sing"),),
         (("woman", "wear", "scarf"),)),
    Rule("relative-object", "extended", "acl:relcl with its own subject and no object",
         "The book that the woman reads is old.", (("book", "old"),),
         (("woman", "read", "book"),)),
    Rule("relative-phrase", "extended", "acl:relcl with a stranded preposition",
         "The bench that a man is sitting on is green.", (("bench", "green"),),
         (("man", "sit on", "bench"),)),
    Rule("relative-be", "extended", "acl:relcl with cop: be-phrase or be-adjective of its noun",
         "The ball which is on a table is black.", (("ball", "black"),),
         (("ball", "on", "table"),)),
    Rule("adverbial", "extended", "advcl without a subject: the subject of its head",
         "A man sings while playing a guitar.", (("man", "sing"),), (("man", "play", "guitar"),)),
    Rule("complement", "extended", "xcomp: the subject of its head",
         "A girl tries to catch a frog.", (("girl", "try"),), (("girl", "catch", "frog"),)),
    Rule("passive", "extended", "nsubj:pass without an agent is the subject",
         "A red bike is parked beside a fence.", (("bike", "red"),),
         (("bike", "park beside", "fence"),)),
    Rule("participle-agent", "extended",
         "passive participle with a by-phrase: the agent is the subject",
         "A field surrounded by trees.", (), (("tree", "surround", "field"),)),
    Rule("agent-place", "extended", "other phrases of such a verb: the patient is the subject",
         "A man is pulled along the street by a dog.", (),
         (("dog", "pull", "man"), ("man", "pull along", "street"))),
    Rule("participle-alone", "extended", "acl without an argument: attribute",
         "A girl laughing.", (("girl", "laugh"),)),
    Rule("possession", "extended",
         "of between an owner with an article and a part without a/an: relation have",
         "The door of the house is open.", (("door", "open"),), (("house", "have", "door"),)),
    Rule("side", "extended", "on the side of, at the edge of ...: one predicate",
         "A tree on the side of the road.", (), (("tree", "on side of", "road"),)),
    Rule("shared-phrase", "extended", "a phrase after the last conjunct modifies all conjuncts",
         "Men and women on a bus.", (), (("man", "on", "bus"), ("woman", "on", "bus"))),
    Rule("own", "extended", "a phrase with a possession of the subject modifies the verb",
         "A puppy carries a stick in its mouth.", (),
         (("puppy", "carry", "stick"), ("puppy", "carry in", "mouth"), ("puppy", "have", "mouth"))),
    Rule("person", "extended", "he, she, they without an antecedent: man, woman, people",
         "She is reading a book.", (), (("woman", "read", "book"),)),
    Rule("quantifier-name", "extended", "the attribute is the quantifier noun",
         "A couple of swans float on a pond.", (("swan", "couple"),),
         (("swan", "float on", "pond"),)),
    Rule("quantifier-first", "spice", "the attribute is the first word of the quantifier",
         "A couple of swans float on a pond.", (("swan", "a"),), (("swan", "float on", "pond"),)),
    Rule("participle-by", "spice",
         "passive participle with a by-phrase: the modified noun is the subject",
         "A field surrounded by trees.", (), (("field", "surround by", "tree"),)),
    Rule("no-passive", "spice", "nsubj:pass without an agent: no relation",
         "A bike is parked beside a fence."),
    Rule("no-relative", "spice", "relative pronouns have no antecedent",
         "A woman who is wearing a scarf sings.", (("woman", "sing"),)),
    Rule("flat-verbs", "spice", "directly coordinated verbs: the first has the arguments",
         "A dog jumps and catches the ball.", (("dog", "catch"),), (("dog", "jump", "ball"),)),
    Rule("nearest-conjunct", "spice", "a conjunct after a phrase is part of the phrase",
         "A man in a suit and a boy.", (), (("man", "in", "suit"), ("man", "in", "boy"))),
    Rule("opening-name", "spice", "an irregular plural at the start of the caption keeps its form",
         "Women sing on a stage.", (), (("women", "sing on", "stage"),)),
)
# fmt: on


def _tuples(rule: Rule) -> str:
    found = [f"({', '.join(t)})" for t in (*rule.attributes, *rule.relations)]
    return " ".join(found) or "none"


def markdown() -> str:
    """Return the table as the page docs/rules.md."""
    lines = [
        "# Rules of the caption graphs",
        "",
        "Generated from `pipeline/language/spice/rules.py` by `python -m pipeline rules`; every",
        "example is run as a test.",
        "",
        "Each noun is an object; its label is the lemma. The profile `spice` returns the tuples",
        "of SPICE 1.0, including what it omits; `extended`, the default, adds clauses, passives",
        "and complements. Before the rules are applied, the trees of the parser are converted to",
        "UD v2, agreement errors are corrected (`pipeline/language/repair.py`), prepositions and",
        "quantifiers are annotated (`pipeline/language/spice/clauses.py`), and phrases are",
        "attached: as SPICE's grammar does for `spice`, as people do for `extended`",
        "(`pipeline/language/spice/attachment.py`).",
        "",
    ]
    heads = {
        "both": "Both profiles",
        "extended": "Only `extended`",
        "spice": "Only `spice`",
    }
    for profile, head in heads.items():
        lines += [f"## {head}", "", "| rule | pattern | example | tuples |", "|---|---|---|---|"]
        lines += [
            f"| {rule.name} | {rule.pattern} | {rule.example} | {_tuples(rule)} |"
            for rule in RULES
            if rule.profile == profile
        ]
        lines.append("")
    return "\n".join(lines)
