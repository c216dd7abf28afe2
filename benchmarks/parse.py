"""Time of parsing a caption, as ratios in one run: ``python -m benchmarks.parse [CAPTIONS.txt]``.

The baseline is spaCy's pipeline of tok2vec, tagger and parser on given tokens. Ours adds the
tokenizer, lemmas, conversion to UD and the rules. Rounds alternate and the minimum is reported, so
other load on the machine affects both alike. Without a file, captions are generated.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import spacy

from pipeline.language import extract, tokenize
from pipeline.parse import load_parser

ROUNDS = 5
COUNT = 1500


def captions(count: int) -> list[str]:
    """Return generated, distinct captions of about 13 tokens."""
    draw = random.Random(7)
    people = ["man", "woman", "boy", "girl", "player", "worker", "child", "vendor"]
    adjectives = ["young", "old", "tall", "smiling", "bearded", "tired", "happy"]
    wear = ["shirt", "jacket", "hat", "dress", "coat", "uniform", "sweater"]
    acts = ["holding a cup", "riding a bike", "throwing a ball", "reading a map", "waving"]
    places = ["on the beach", "in front of a store", "near a fence", "at a crowded market"]
    colours = ["red", "blue", "green", "white", "striped", "black-and-white"]
    made = set()
    while len(made) < count:
        made.add(
            f"A {draw.choice(adjectives)} {draw.choice(people)} in a {draw.choice(colours)} "
            f"{draw.choice(wear)} is {draw.choice(acts)} {draw.choice(places)} "
            f"with {draw.randint(2, 99)} {draw.choice(people)}s."
        )
    return sorted(made)


def main() -> None:
    """Print the table."""
    given = Path(sys.argv[1]).read_text().splitlines() if len(sys.argv) > 1 else captions(COUNT)
    texts = list(itertools.islice((line.strip() for line in given if line.strip()), COUNT))
    parser = load_parser("spacy")
    doc = parser._doc  # type: ignore[attr-defined]
    nlp = spacy.load(parser.nlp.path, exclude=["ner", "attribute_ruler", "lemmatizer", "senter"])  # type: ignore[attr-defined]
    words = [tokenize(text).words for text in texts]
    parsed = parser.parse(texts)

    def baseline() -> object:
        return list(nlp.pipe([doc(nlp.vocab, words=line) for line in words], batch_size=256))

    def whole() -> object:
        return extract(parser.parse(texts))

    cases: dict[str, Callable[[], object]] = {
        "spaCy tok2vec + tagger + parser": baseline,
        "parse + extract (ours)": whole,
        "extract alone, extended": lambda: extract(parsed, "extended"),
        "extract alone, spice": lambda: extract(parsed, "spice"),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, run in cases.items():
            begin = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begin)
    base = best["spaCy tok2vec + tagger + parser"]
    print(f"{len(texts)} captions, {sum(map(len, words)) / len(texts):.1f} tokens each\n")
    print("| step | captions/s | ratio to spaCy |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {len(texts) / seconds:,.0f} | {seconds / base:.2f} |")


if __name__ == "__main__":
    main()
