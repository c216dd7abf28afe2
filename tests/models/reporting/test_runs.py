"""Runs in the report: recall table, gallery, thumbnails and broken files."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.drawing import Thumbnails
from features.errors import InputError, MismatchError
from models.report import write_report
from models.reporting import sections
from models.reporting.gallery import failures, retrieval_gallery
from models.reporting.runs import read_run
from models.training.lineage import store_keys

NAMES = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")


def make_run(folder: Path, name: str, recalls: tuple[float, ...], metrics: str) -> Path:
    """Write a run folder with one row of results and a log."""
    folder.mkdir()
    numbers = dict(zip(NAMES, recalls, strict=True)) | {"rsum": sum(recalls)}
    row = {"name": name, "metrics": numbers, "intervals": {"i2t_r1": [1.2, 98.7]}}
    chance = dict.fromkeys(NAMES, 3.3) | {"rsum": 19.8}
    about = {"config": {"model": {"name": name}}, "step": 7}
    content = {"images": 4, "captions": 20, "chance": chance, "runs": [about], "rows": [row]}
    (folder / "results-test.json").write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(metrics)
    return folder


LEARNS = "step,kind,loss\n1,train,2.0\n2,train,1.5\n"
LEARNS_NOT = "step,kind,loss,i2t_r1,t2i_r1\n0,val,,10.0,20.0\n"


def cells(page: str, model: str) -> list[str]:
    """Return the cells of a model's row in the recall table, as HTML."""
    row = re.search(rf'<th scope="row">{model}</th>(.*?)</tr>', page, re.S)
    assert row is not None
    return re.findall(r"<td class=\"n.*?</td>", row[1])


def test_the_recall_table_has_all_numbers_and_marks_the_best(tiny_store, tmp_path):
    runs = [
        make_run(tmp_path / "a", "sgm", (50.04, 60, 70, 30, 40, 51), LEARNS),
        make_run(tmp_path / "b", "gsmn", (40, 65, 70, 20, 45, 50), LEARNS),
    ]
    page = write_report(tmp_path / "report.html", tiny_store(images=12), runs).read_text()
    first, second = cells(page, "SGM · a"), cells(page, "GSMN · b")
    strip = [re.sub(r"<small>.*?</small>|<.*?>", "", cell) for cell in first]
    assert strip == ["50.0", "60.0", "70.0", "30.0", "40.0", "51.0", "301.0"]
    assert "<small>1.2–98.7</small>" in first[0]
    rows = [first, second, cells(page, "Detected labels only")]
    for column in zip(*rows, strict=True):
        numbers = [float(re.sub(r"<small>.*?</small>|<.*?>", "", cell)) for cell in column]
        assert ["best" in cell for cell in column] == [n == max(numbers) for n in numbers]
    assert "best" in first[0]
    assert "4 images, 20 captions" in page
    assert [re.sub("<.*?>", "", cell) for cell in cells(page, "Chance")] == ["3.3"] * 6 + ["19.8"]


def test_a_model_that_is_not_trained_has_no_curves(tiny_store, tmp_path):
    numbers = (1.0,) * 6
    bag = make_run(tmp_path / "tfidf", "tfidf", numbers, LEARNS_NOT)
    page = write_report(tmp_path / "one.html", tiny_store(images=12), [bag]).read_text()
    assert len(cells(page, "TFIDF")) == 7
    assert 'id="training"' not in page
    assert 'href="#training"' not in page
    run = make_run(tmp_path / "sgm", "sgm", numbers, LEARNS)
    page = write_report(tmp_path / "two.html", tiny_store(images=12), [bag, run]).read_text()
    training = page[page.index('id="training"') : page.index('id="graphs"')]
    assert "SGM" in training
    assert "TFIDF" not in training


def write_queries(path: Path, rows: list[tuple[str, str, int, list[str]]]) -> Path:
    table = [
        {"direction": way, "query": query, "rank": rank, "answers": answers,
         "scores": [0.9 - 0.1 * n for n in range(len(answers))]}
        for way, query, rank, answers in rows
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


def test_the_gallery_marks_correct_and_wrong_results_in_both_directions(tiny_store, tmp_path):
    store = tiny_store(images=12)
    run = make_run(tmp_path / "sgm", "sgm", (1.0,) * 6, LEARNS)
    images = store.images["id"].tolist()
    own = {i: store.captions[store.captions["image"] == i]["id"].tolist() for i in images}
    hit, miss = images[4], images[5]
    others = images[6:11]
    queries = write_queries(
        run / "queries-test.parquet",
        [
            ("t2i", own[hit][0], 2, [others[0], hit, *others[1:4]]),
            ("t2i", own[miss][0], 6, [*others, miss]),
            ("i2t", hit, 2, [own[miss][0], own[hit][1], own[hit][3], own[miss][1]]),
        ],
    )
    shown = retrieval_gallery(store, [("SGM", queries)], Thumbnails(None), 3)
    found, missed = ({**query, **query["runs"][0]} for query in shown["t2i"])
    assert [answer["right"] for answer in found["answers"]] == [False, True, False, False, False]
    assert (found["missed"], found["truth"]["id"], found["rank"]) == (False, hit, 2)
    assert [answer["score"] for answer in found["answers"]][:2] == ["0.90", "0.80"]
    assert (missed["missed"], missed["truth"]["id"], missed["rank"]) == (True, miss, 6)
    assert [answer["id"] for answer in missed["answers"]] == others
    (asked,) = shown["i2t"]
    right = [answer["right"] for answer in asked["runs"][0]["answers"]]
    assert right == [False, True, True, False]
    assert asked["truth"]["id"] == hit

    page = write_report(tmp_path / "report.html", store, [run]).read_text()
    frames = re.findall(r'class="frame (right|)"><code>(.*?)</code>', page)
    expected = [("right" if i == hit else "", i) for i in (others[0], hit, *others[1:4])]
    truths = [("", hit), ("", miss), ("", hit)]
    assert frames == [truths[0], *expected, truths[1], *(("", i) for i in others), truths[2]]
    texts = page[page.index("Image → captions</h3>") : page.index('id="graphs"')]
    assert re.findall(r"<li( class=\"right\"|)>", texts) == ["", *[' class="right"'] * 2, ""]


def test_an_image_has_one_query_at_most(tiny_store, tmp_path):
    store = tiny_store(images=60)
    test = store.captions[store.captions["split"] == "test"]
    images = test["image"].unique().tolist()
    rows = [("t2i", name, 1 + at % 9, [images[0]]) for at, name in enumerate(test["id"])]
    rows += [("i2t", name, 1 + at % 9, [test["id"].iloc[0]]) for at, name in enumerate(images)]
    path = write_queries(tmp_path / "queries.parquet", rows)
    other = write_queries(tmp_path / "other.parquet", [(w, q, 9, a) for w, q, _, a in rows])
    shown = retrieval_gallery(store, [("a", path), ("b", other)], Thumbnails(None), 8)
    asked = [query["truth"]["id"] for way in ("t2i", "i2t") for query in shown[way]]
    assert len(asked) == len(set(asked)) == 16
    ranks = [query["runs"][0]["rank"] for query in shown["t2i"]]
    assert sum(rank == 1 for rank in ranks) == 4
    assert sum(rank > 5 for rank in ranks) == 2
    assert {query["runs"][1]["rank"] for query in shown["t2i"]} == {9}
    worst = failures(store, path, Thumbnails(None), 5)
    assert len({query["truth"]["id"] for query in worst}) == 5
    assert [query["runs"][0]["rank"] for query in worst] == [9] * 5


def test_a_model_below_a_baseline_and_a_small_split_are_said(tiny_store, tmp_path):
    bag = make_run(tmp_path / "tfidf", "tfidf", (20.0,) * 6, LEARNS_NOT)
    low = make_run(tmp_path / "low", "sgm", (10.0,) * 6, LEARNS)
    high = make_run(tmp_path / "high", "gsmn", (30.0,) * 6, LEARNS)
    store = tiny_store(images=12)
    page = write_report(tmp_path / "report.html", store, [bag, low, high]).read_text()
    said = re.findall(
        r"<li>(.*?)</li>", page[page.index('class="warnings"') : page.index("<table")]
    )
    assert any("baseline “TFIDF” (rSum 120.0): SGM · low (60.0)." in line for line in said)
    assert not any("GSMN" in line and "TFIDF" in line for line in said)
    assert any("has 4 images" in line for line in said)
    assert "95 % bootstrap" in page
    for run in (bag, low, high):  # without intervals, none are claimed
        path = run / "results-test.json"
        path.write_text(path.read_text().replace('"i2t_r1": [1.2, 98.7]', ""))
    page = write_report(tmp_path / "report.html", store, [bag, low, high]).read_text()
    assert "bootstrap" not in page
    many = [{"name": "a", "kind": "model", "intervals": {}, "metrics": {"rsum": 9, "i2t_r1": 50}}]
    assert sections.warnings(many, 5000) == []


def test_the_best_number_is_bold_even_if_a_baseline_has_it(tiny_store, tmp_path):
    bag = make_run(tmp_path / "tfidf", "tfidf", (100.0,) * 6, LEARNS_NOT)
    run = make_run(tmp_path / "sgm", "sgm", (10.0,) * 6, LEARNS)
    page = write_report(tmp_path / "r.html", tiny_store(images=12), [run, bag]).read_text()
    assert all("best" in cell for cell in cells(page, "TFIDF"))
    assert not any("best" in cell for cell in cells(page, "SGM"))


def test_among_equal_scores_the_correct_result_is_last(tiny_store, tmp_path):
    store = tiny_store(images=12)
    images = store.images["id"].tolist()
    own = store.captions[store.captions["image"] == images[4]]["id"].tolist()
    path = tmp_path / "queries.parquet"
    row = {"direction": "t2i", "query": own[0], "rank": 3}
    row |= {"answers": [images[4], images[5], images[6], images[7]], "scores": [0.5, 0.5, 0.5, 0.4]}
    pq.write_table(pa.Table.from_pylist([row]), path)
    (asked,) = retrieval_gallery(store, [("a", path)], Thumbnails(None), 1)["t2i"]
    assert [answer["id"] for answer in asked["runs"][0]["answers"]] == [
        images[n] for n in (5, 6, 4, 7)
    ]


def test_thumbnails_are_small_and_upright_and_unreadable_ones_empty(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (400, 200), (200, 30, 30)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:300])
    thumbnails = Thumbnails(tmp_path)
    head, _, data = thumbnails.data("turned.jpg", 100).partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (50, 100)
        assert all(abs(a - b) < 6 for a, b in zip(picture.getpixel((9, 9)), (200, 30, 30)))  # noqa: B905
    assert thumbnails.data("torn.jpg", 100) == thumbnails.data("none.jpg", 100) == ""
    assert Thumbnails(None).data("turned.jpg", 100) == ""
    (tmp_path / "below").mkdir()
    assert Thumbnails(tmp_path / "below").data("../turned.jpg", 100) == ""


def test_broken_files_are_named_and_missing_ones_left_out(tiny_store, tmp_path):
    run = make_run(tmp_path / "sgm", "sgm", (1.0,) * 6, LEARNS)
    results = run / "results-test.json"
    whole = results.read_text()
    for broken in (whole[:90], "[]", whole.replace('"chance"', '"luck"'), '{"rows": [{}]}'):
        results.write_text(broken)
        with pytest.raises(InputError, match=r"results-test\.json.*Run it again"):
            read_run(run, "test")
    results.unlink()
    alone = read_run(run, "test")
    assert (alone["results"], alone["queries"], alone["name"]) == ({}, None, "sgm")
    assert alone["lines"]["loss"] == [(1.0, 2.0), (2.0, 1.5)]
    (run / "queries-test.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"queries-test\.parquet.*Run it again"):
        write_report(tmp_path / "report.html", tiny_store(images=12), [run])


def test_numbers_of_another_store_are_refused(tiny_store, tmp_path):
    run = make_run(tmp_path / "sgm", "sgm", (1.0,) * 6, LEARNS)
    store = tiny_store(images=12)
    content = json.loads((run / "results-test.json").read_text())
    content["store"] = store_keys(store)
    (run / "results-test.json").write_text(json.dumps(content))
    write_report(tmp_path / "own.html", store, [run])
    with pytest.raises(MismatchError, match=r"results-test\.json: results of another store"):
        write_report(tmp_path / "other.html", tiny_store(images=12, seed=1), [run])
