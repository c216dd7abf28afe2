"""Files of human ratings, and ``models.evaluate --judgements``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import models
from features.errors import InputError, MissingInput, UnknownName, UsageError
from models.configuration.config import from_dict
from models.evaluate import app
from models.evaluation import kendall, parse_texts, read_judgements
from models.train import train
from models.training.run import load_run

GOOD = [
    {"image": "1.jpg", "caption": "A dog  runs.", "ratings": [4, 3, 4]},
    {"image": "1.jpg", "caption": "A cat.", "rating": 1},
    {"image": "2.jpg", "caption": "A cat.", "yes": 0.5},
]


def written(folder: Path, document: object, name: str = "ratings.json") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_list_of_pairs(tmp_path):
    (found,) = read_judgements(written(tmp_path, GOOD))
    assert [pair.ratings for pair in found.pairs] == [(4, 3, 4), (1,), (0.5,)]
    assert found.pairs[0].caption == "A dog runs."
    assert (found.name, found.left_out) == ("", 0)


def test_named_sets_and_references(tmp_path):
    document = {"expert": GOOD, "crowd": GOOD[:2], "references": {"2.jpg": ["A  cat."]}}
    expert, crowd = read_judgements(written(tmp_path, document))
    assert (expert.name, len(expert.pairs), expert.left_out) == ("expert", 2, 1)
    assert (crowd.name, len(crowd.pairs), crowd.left_out) == ("crowd", 2, 0)


def test_a_table_with_a_row_per_rating(tmp_path):
    text = (
        '\ufeffImage,caption,rating\r\n1.jpg,"A dog, running.",4\r\n1.jpg,"A dog, running.",2\r\n'
    )
    (found,) = read_judgements(written(tmp_path, text + "\n2.jpg,A cat.,1.5\n", "r.csv"))
    assert [(p.image, p.caption, p.ratings) for p in found.pairs] == [
        ("1.jpg", "A dog, running.", (4.0, 2.0)),
        ("2.jpg", "A cat.", (1.5,)),
    ]


def changed(**values):
    pair = {**GOOD[0], **values}
    return [GOOD[1], {key: value for key, value in pair.items() if value != "gone"}]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[", "ratings.json"),
        ("3", "expected a list of pairs"),
        ({}, "expected a list of pairs"),
        ({"expert": 3}, "expert: expected a list"),
        ([[1]], r"\[0\]: \[1\] is no object"),
        (changed(image="gone"), r"\[1\]: image is None"),
        (changed(image=7), r"\[1\]: image is 7"),
        (changed(caption=" "), r"\[1\]: caption is ' '"),
        (changed(ratings="gone"), "one of the keys 'ratings', 'rating' and 'yes'"),
        (changed(rating=2), "one of the keys"),
        (changed(ratings=[]), "there is no rating"),
        (changed(ratings=["4"]), "the rating '4' is not a finite number"),
        (changed(ratings=[True]), "the rating True is not a finite number"),
        (changed(ratings=None), "the rating None is not"),
        ('[{"image": "1", "caption": "a", "rating": NaN}]', "NaN is not a number"),
        ('[{"image": "1", "caption": "a", "rating": 1e999}]', "inf is not a finite"),
        (changed(ratings=[10**400]), r"\[1\]: the rating an integer of 1329 bits is not"),
        (changed(caption="\u200b"), r"\[1\]: caption is"),
        (GOOD[1:2] * 2, "less than two different ratings"),
        ([], "0 pairs with less than two"),
        ({"a": GOOD, "references": [1]}, "'references' must be an object"),
        ({"a": GOOD, "references": {"1.jpg": "A cat."}}, "'references' must be an object"),
        ({"a": GOOD[:2], "references": {"1.jpg": ["A cat.", "A dog runs."]}}, "0 pairs"),
    ],
)
def test_wrong_json_is_named(tmp_path, document, message):
    with pytest.raises(InputError, match=message):
        read_judgements(written(tmp_path, document))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns image, caption, rating"),
        ("image,caption\n1,a\n", "must name the columns"),
        ("image,caption,rating\n1,a\n", "row 2 has 2 columns"),
        ("image,caption,rating\n1,a,good\n", "row 2: the rating 'good'"),
        ("image,caption,rating\n1,a,nan\n", "row 2: the rating 'nan'"),
        ("image,caption,rating\n1,a,1_0\n", "row 2: the rating '1_0'"),
        ("image,caption,rating\n1,a,\u0663\n", "row 2: the rating"),
        ("image,caption,rating\n,a,1\n", "row 2: image is ''"),
        ('image,caption,rating\n1,"a,1\n', "not a CSV file"),
    ],
)
def test_wrong_tables_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_judgements(written(tmp_path, text, "r.csv"))


def test_a_pair_that_is_listed_twice_and_texts_as_stores_have_them(tmp_path):
    one = {"image": "1.jpg", "caption": "A man\u2019s dog\u2028runs.", "ratings": [1]}
    other = {"image": "1.jpg", "caption": "A man's dog runs.", "ratings": [2]}
    (found,) = read_judgements(written(tmp_path, [one, other]))
    assert [(pair.caption, pair.ratings) for pair in found.pairs] == [
        ("A man's dog runs.", (1.0, 2.0))
    ]


def test_texts_with_marks_that_end_lines_or_are_no_characters():
    texts = ["a dog\u2028runs", "a \ud800 dog", "a man\u2019s dog"]
    parsed = parse_texts(texts, parser="spacy", profile="spice")
    assert [graph.caption for graph in parsed] == ["a dog runs", "a \ufffd dog", "a man's dog"]


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(MissingInput, match=r"nowhere\.json"):
        read_judgements(tmp_path / "nowhere.json")
    (tmp_path / "r.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_judgements(tmp_path / "r.csv")


@pytest.fixture
def store(tiny_store):
    return tiny_store(images=24)


@pytest.fixture
def run(store, tmp_path):
    options = {"embed_dim": 16, "word_dim": 8}
    tree = {
        "model": {"name": "sgm", "options": options},
        "data": {"store": str(store.path), "batch_size": 32},
        "run": {"folder": str(tmp_path / "run"), "max_steps": 3},
    }
    assert train(from_dict(tree)) == 0
    return tmp_path / "run"


def test_agreement_of_a_run_equals_that_of_its_score_matrix(store, run, tmp_path, capsys):
    # Captions of the store, each rated with several images: the whole matrix has their scores.
    ids = store.column("image_id")[store.image_rows("test")]
    texts = store.column("caption").tolist()
    rows = store.caption_rows("test")
    random = np.random.default_rng(0)
    pairs = [
        {
            "image": str(ids[image]),
            "caption": texts[rows[at]],
            "ratings": random.integers(1, 5, 3).tolist(),
        }
        for image in range(len(ids))
        for at in (0, 7, 13)
    ]
    path, out = written(tmp_path, {"mine": pairs}), tmp_path / "out.json"
    words = [str(run), str(run), "--store", str(store.path), "--judgements", str(path)]
    assert app.call([*words, "--json", str(out), "--bootstrap", "20"]) == 0
    loaded = load_run(run, store)
    graphs = parse_texts([texts[row] for row in rows[[0, 7, 13]]], parser="spacy", profile="spice")
    assert [len(graph.tokens) for graph in graphs] == [
        len(texts[r].split()) for r in rows[[0, 7, 13]]
    ]
    sims = models.score_all(loaded.model, store, "test", loaded.codebook).numpy()
    scores = [sims[image, at] for image in range(len(ids)) for at in (0, 7, 13)]
    wanted = kendall(
        np.repeat(scores, 3),
        [value for pair in pairs for value in pair["ratings"]],
        np.repeat([pair["image"] for pair in pairs], 3),
    )
    found = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in found] == [str(run), str(run), "ensemble of 2"]
    for row in found:
        assert row["set"] == "mine"
        assert (row["pairs"], row["ratings"]) == (len(pairs), 3 * len(pairs))
        # the parser may read a caption otherwise than the store's records do
        assert row["tau_c"] == pytest.approx(wanted.tau_c, abs=0.25)
        assert row["tau_c_interval"][0] <= row["tau_c"] <= row["tau_c_interval"][1]
    assert (run / "evaluation-judgements-ratings.json").is_file()
    assert "tau-c" in capsys.readouterr().out


def test_scores_of_parsed_pairs_are_those_of_the_matrix(store, run):
    import torch

    from models.evaluation import score_pairs

    loaded = load_run(run, store)
    rows, captions = store.image_rows("test"), store.caption_rows("test")
    ids = store.column("caption_id").tolist()
    graphs = [store.text(ids[row]) for row in captions]
    random = np.random.default_rng(1)
    images, which = random.integers(0, len(rows), 70), random.integers(0, len(captions), 70)
    scores = score_pairs(
        loaded.model, store, loaded.codebook, rows[images], graphs, which,
        device=torch.device("cpu"), batch_size=3,
    )  # fmt: skip
    sims = models.score_all(loaded.model, store, "test", loaded.codebook).numpy()
    np.testing.assert_allclose(scores, sims[images, which], atol=1e-5)


def test_refusals(store, run, tmp_path):
    words = [str(run), "--store", str(store.path)]
    path = written(tmp_path, GOOD)
    with pytest.raises(UnknownName, match=r"1\.jpg"):
        app.call([*words, "--judgements", str(path)])
    with pytest.raises(UsageError, match="one at a time"):
        app.call([*words, "--judgements", str(path), "--negatives", str(store.path)])
    with pytest.raises(UsageError, match="--fold5: for recall"):
        app.call([*words, "--judgements", str(path), "--fold5"])
    with pytest.raises(MissingInput, match="nothing"):
        app.call([*words, "--judgements", str(tmp_path / "nothing.json")])
    known = [{**pair, "image": str(store.column("image_id")[0])} for pair in GOOD]
    with pytest.raises(UsageError, match=r"could not be parsed: .*parser"):
        app.call([*words, "--judgements", str(written(tmp_path, known)), "--parser", "none"])
