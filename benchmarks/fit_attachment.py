"""Fit the weights of ``pipeline/language/spice/attachment.py``.

    python -m benchmarks.fit_attachment SPICE.json HUMAN.csv [--out FILE]

SPICE.json has entries ``{"sent": caption, "rels": [[subject, predicate, object], ...]}`` with the
output of SPICE; HUMAN.csv has the columns ``caption`` and ``scene_graph`` with ``( s , p , o )``
tuples by people. Each attachment that the tuples determine is one example; the weights are a
softmax regression over its candidates. The weights of ``extended`` add 0.3 of SPICE's as a prior.
Prints the agreement on every fifth caption, held out, beside that of the parser's attachment and of
the nearest candidate.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter
from pathlib import Path

import torch

from features.records import TextGraph
from pipeline.language import (
    Clauses,
    candidates,
    clause_cues,
    join_verbs,
    lower_conjuncts,
    phrase_cues,
    sites,
)
from pipeline.parse import load_parser

Triple = tuple[str, ...]
Example = tuple[int, int, list[list[str]]]  # right candidate, the parser's, cues of each
PRIOR = 0.3
ABOUT = (
    "Weights of the cues in pipeline/language/spice/attachment.py. spice: fitted to SPICE 1.0 "
    "output on captions; extended: fitted to human scene graphs, with 0.3 of the first as a prior."
)


def read_spice(path: Path) -> tuple[list[str], list[set[Triple]]]:
    """Return captions and SPICE's relations."""
    items = list(json.loads(path.read_text(encoding="utf-8")).values())
    return [i["sent"] for i in items], [{tuple(rel) for rel in i["rels"]} for i in items]


def read_human(path: Path, limit: int) -> tuple[list[str], list[set[Triple]]]:
    """Return captions and the relations that people wrote, with words in the singular."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:limit]
    gold = []
    for row in rows:
        found = [
            re.split(r"\s*,\s*", t.strip()) for t in re.findall(r"\(([^()]*)\)", row["scene_graph"])
        ]
        gold.append({tuple(map(_singular, t)) for t in found if len(t) == 3 and t[1] != "is"})
    return [row["caption"] for row in rows], gold


def _singular(text: str) -> str:
    return " ".join(
        w[:-1] if w.endswith("s") and not w.endswith("ss") and len(w) > 3 else w
        for w in text.split()
    )


def _names(c: Clauses, token: int) -> set[str]:
    return {c.lemma[token], _singular(c.lemma[token])}


def examples(graph: TextGraph, gold: set[Triple], spice: bool) -> dict[str, list[Example]]:
    """Return the examples of one caption; each attachment is corrected before the next is read."""
    c = Clauses(graph, sides=not spice)
    if spice:
        join_verbs(c)
        lower_conjuncts(c)
    made: dict[str, list[Example]] = {"phrase": [], "clause": []}
    for before, token, kind in sites(c):
        found = candidates(c, before, token)
        now = found.index(c.head[token]) if c.head[token] in found else -1
        if kind == "phrase" and len(found) > 1:
            preposition = c.prep[token][0]
            right = next(
                (
                    k
                    for k, t in enumerate(found)
                    for s, p, o in gold
                    if o.split()[-1:]
                    and o.split()[-1] in _names(c, token)
                    and (
                        p.endswith(" " + preposition) and p.split()[0] == c.lemma[t]
                        if c.tag[t][:1] == "V"
                        else p == preposition and s.split()[-1:] and s.split()[-1] in _names(c, t)
                    )
                ),
                -1,
            )
            if right >= 0:
                cues = [phrase_cues(c, found, k, before, token) for k in range(len(found))]
                made[kind].append((right, now, cues))
                c.move(token, found[right], "nmod" if c.tag[found[right]][:1] == "N" else "obl")
        elif kind == "clause" and spice:
            options = [-1, *[k for k, t in enumerate(found) if c.tag[t][:1] == "N"]]
            right = next(
                (
                    at
                    for at, k in enumerate(options)
                    if k >= 0
                    and any(
                        s == c.lemma[found[k]] and p.split()[0] == c.lemma[token]
                        for s, p, _ in gold
                    )
                ),
                0,
            )
            if right or {c.rel[kid] for kid in c.kids[token]} & {"obj", "obl"}:
                acl = c.rel[token] == "acl" and now in options
                cues = [clause_cues(c, found, k, token) for k in options]
                made[kind].append((right, options.index(now) if acl else 0, cues))
            if right:
                c.move(token, found[options[right]], "acl")
    return made


def fit(train: list[Example], test: list[Example], penalty: float = 2e-3) -> dict[str, float]:
    """Return the weights of all cues that occur at least ten times."""
    counts = Counter(cue for _, _, rows in train for cues in rows for cue in cues)
    column = {cue: at for at, cue in enumerate(sorted(c for c, n in counts.items() if n >= 10))}
    X, mask, y = _tensors(train, column)
    weights = torch.zeros(len(column), requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        scores = (X @ weights).masked_fill(~mask, -1e9)
        value = torch.nn.functional.cross_entropy(scores, y) + penalty * weights.square().sum()
        value.backward()
        return value

    solver.step(loss)
    X, mask, y = _tensors(test, column)
    hits = ((X @ weights).masked_fill(~mask, -1e9).argmax(1) == y).float().mean()
    parser = sum(right == now for right, now, _ in test) / len(test)
    nearest = sum(right == 0 for right, _, _ in test) / len(test)
    print(f"{len(train)} examples, {len(column)} cues; held out: {hits:.3f}", end=" ")
    print(f"(the parser {parser:.3f}, the first candidate {nearest:.3f})")
    return {cue: round(float(weights[at].detach()), 3) for cue, at in column.items()}


def _tensors(
    data: list[Example], column: dict[str, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    widest = max(len(rows) for _, _, rows in data)
    X = torch.zeros(len(data), widest, len(column))
    mask = torch.zeros(len(data), widest, dtype=torch.bool)
    for i, (_, _, rows) in enumerate(data):
        mask[i, : len(rows)] = True
        for k, cues in enumerate(rows):
            X[i, k, [column[cue] for cue in cues if cue in column]] = 1
    return X, mask, torch.tensor([right for right, _, _ in data])


def main() -> None:
    """Fit both profiles and write the file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("spice", type=Path)
    arguments.add_argument("human", type=Path)
    arguments.add_argument("--limit", type=int, default=20_000, help="captions read from HUMAN.csv")
    arguments.add_argument(
        "--out", type=Path, default=Path("pipeline/language/data/attachment.json")
    )
    options = arguments.parse_args()
    weights: dict[str, dict[str, float]] = {}
    sources = {
        "spice": read_spice(options.spice),
        "extended": read_human(options.human, options.limit),
    }
    for profile, (captions, gold) in sources.items():
        parsed = load_parser("spacy").parse(captions)
        made = [examples(g, t, profile == "spice") for g, t in zip(parsed, gold, strict=True)]
        weights[profile] = {}
        for kind in ("phrase", "clause") if profile == "spice" else ("phrase",):
            every = [(i, e) for i, found in enumerate(made) for e in found[kind]]
            fit([e for i, e in every if i % 5], [e for i, e in every if i % 5 == 0])
            print("all:", end=" ")
            weights[profile] |= fit([e for _, e in every], [e for _, e in every])
    for cue, value in weights["spice"].items():
        if cue.startswith("p:"):
            weights["extended"][cue] = weights["extended"].get(cue, 0.0) + PRIOR * value
    document: dict[str, object] = {"about": ABOUT}
    for profile, table in weights.items():
        document[profile] = {c: round(v, 3) for c, v in sorted(table.items()) if abs(v) >= 0.02}
    options.out.write_text(json.dumps(document, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
