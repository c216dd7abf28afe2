"""The report is self-contained, shows the numbers of the store and leaves out what is missing."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from features.drawing import arcs_svg, facts, strongest
from features.errors import MissingInput
from models.baselines.label_bags import label_bag_scores
from models.report import write_report
from models.reporting.charts import curves, histogram
from models.reporting.figures import overlay


def test_the_page_of_a_store_has_no_external_references(tiny_store, tmp_path):
    store = tiny_store(images=12)
    page = write_report(tmp_path / "report.html", store).read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert "<script" not in page
    assert 'id="graphs"' in page
    assert 'id="results"' not in page
    assert store.hash[:12] in page


def test_a_missing_run_is_named(tiny_store, tmp_path):
    with pytest.raises(MissingInput, match="no such run folder"):
        write_report(tmp_path / "report.html", tiny_store(), [tmp_path / "nowhere"])


def test_curves_of_a_run_without_evaluation(tiny_store, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("step,kind,loss\n1,train,2.0\n2,train,1.5\n")
    page = write_report(tmp_path / "report.html", tiny_store(), [tmp_path / "run"]).read_text()
    assert "Training loss against training steps" in page
    assert "scenestore evaluate RUN" in page


def test_labels_of_images_score_every_pair(tiny_store):
    store = tiny_store(images=24)
    scores = label_bag_scores(store, "test")
    assert scores.shape == (8, 40)
    assert (scores == label_bag_scores(store, "test")).all()


def test_arcs_draw_each_head_once(tiny_records):
    graph = max(tiny_records().texts, key=lambda text: len(text.tokens))
    drawing = arcs_svg(graph)
    assert drawing.count('class="arc"') == sum(head >= 0 for head in graph.heads)
    assert drawing.count('class="word') == len(graph.tokens)
    assert curves({"loss": []}, "loss") == ""


def test_a_line_of_one_point_is_a_marker_and_noise_stays_small():
    alone = curves({"a": [(5, 50.0)], "b": [(5, 51.0), (10, 51.5)]}, "rSum", span=20)
    assert alone.count("<circle") == 3
    assert alone.count('class="line') == 1
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', alone)]
    assert max(heights) - min(heights) < 0.1 * 232
    many = curves({"a": [(n, float(n)) for n in range(40)]}, "loss")
    assert "<circle" not in many


def test_the_names_of_lines_do_not_overlap_and_stay_inside():
    lines = {f"run {n}": [(1, 5.0), (9, 2.0 + 0.001 * n)] for n in range(6)}
    drawn = curves(lines, "loss")
    assert re.search('class="end s5"', drawn)
    found = re.findall(r'class="end s\d" x="[\d.]+" y="([\d.]+)"', drawn)
    heights = sorted(float(y) for y in found)
    assert all(b - a >= 13.9 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= 232 - 34 + 5


def test_a_histogram_counts_every_value():
    drawn = histogram(np.array([0, 1, 1, 3]), "Objects per image")
    assert "median 1, 90 % at most 2.4, largest 3" in drawn
    assert re.findall(r"<title>(\d: [\d.]+ %)</title>", drawn) == [
        "0: 25.0 %",
        "1: 50.0 %",
        "3: 25.0 %",
    ]
    wide = histogram(np.arange(100), "Words")
    assert wide.count("<title>") - 1 == 20
    assert "95 to 99: 5.0 %" in wide
    assert histogram(np.zeros(0, int), "nothing") == ""


def test_every_drawn_relation_has_its_words_on_the_photo(tiny_store):
    store = tiny_store(images=24)
    graphs = [store.graph(name) for name in store.images["id"]]
    graph = next(one for one in graphs if len(strongest(one, 10, 3).relations) >= 2)
    chosen = strongest(graph, 10, 3)
    drawn = overlay(graph, chosen, "tip")
    for at, row in enumerate(chosen.relations):
        assert f'<g class="edge e{at}"><rect' in drawn
        word = re.search(rf'<g class="edge e{at}"><rect x[^>]*/><text[^>]*>([^<]*)<', drawn)
        assert word is not None
        assert word[1] == graph.relations[row][1]


def test_the_page_says_what_the_store_is_and_why_images_were_skipped(tiny_store, tmp_path):
    store = tiny_store(images=12, skipped=(1, 4))
    page = write_report(tmp_path / "report.html", store).read_text()
    title = re.search("<title>(.*?)</title>", page)[1]
    assert store.manifest["dataset"] in title
    assert store.hash[:12] in title
    assert re.search(r"\d{4}-\d\d-\d\d", title)
    table = page[page.index('id="skipped"') : page.index('id="build"')]
    (reason,) = set(store.skipped.values())
    assert reason in table
    assert all(name in table for name in store.skipped)
    assert "default-src 'none'" in page


def test_relations_are_merged_and_counted(tiny_store, tmp_path):
    store = tiny_store(images=24)
    page = write_report(tmp_path / "report.html", store, examples=99).read_text()
    figures = re.findall(r"<figure style=.*?</figure>", page, re.S)
    assert len(figures) == len(store.image_rows("test"))
    for figure in figures:
        name = re.search(r'class="note">([^:]*): showing', figure)[1]
        said = facts(store.graph(name))[:6]
        chips = re.findall("<li[^>]*>(.*?)</li>", figure)
        assert len(chips) == len(said)
        plain = {re.sub("<.*?>", "", chip) for chip in chips}
        wanted = {
            f"{one.subject} {one.predicate} {one.object}"
            + (f" \N{MULTIPLICATION SIGN}{one.count}" if one.count > 1 else "")
            for one in facts(store.graph(name))
        }
        assert plain <= wanted
        assert figure.count('class="edge e') <= 6  # an arrow and a word for each of three


def photos(folder, store):
    """Write a photo for each image; every third one is upright."""
    folder.mkdir()
    for at, (name, width, height) in enumerate(
        zip(store.images["file"], store.images["width"], store.images["height"], strict=True)
    ):
        Image.new("RGB", (int(width), int(height)), (40 + 9 * at % 200, 90, 120)).save(
            folder / name
        )
    return folder


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(tiny_store, tmp_path, open_page, width, dark):
    store = tiny_store(images=24)
    runs = [fake_run(tmp_path / name, name, store, seed) for seed, name in enumerate("abc")]
    page = write_report(
        tmp_path / "report.html", store, runs, images_dir=photos(tmp_path / "photos", store)
    )
    found = open_page(page.as_uri(), width=width, dark=dark)
    assert found.problems == []
    assert found.requests == [page.as_uri()]
    assert found.accessibility() == []
    assert found.overflow() == 0
    sums = found.page.locator(".recalls tbody td:last-child")
    for at in range(sums.count()):  # visible without scrolling the table
        box = sums.nth(at).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    links = found.page.locator("nav a")
    for at in range(links.count()):
        target = links.nth(at).get_attribute("href")
        assert found.page.locator(target).count() == 1
    if not dark:
        assert found.unreached() == []
        chip = found.page.locator(".edges .drawn").first
        looks = []
        for show in (chip.hover, chip.focus):
            show()
            looks.append(found.page.evaluate(_EDGES))
            found.page.mouse.move(0, 0)
        assert looks[0] == looks[1]
        assert len(set(looks[0].split())) > 1  # some are dimmed
    found.page.evaluate("window.scrollTo(0, 3000)")
    assert found.page.locator("nav").bounding_box()["y"] == 0


_EDGES = """() => [...document.querySelectorAll(".edge, .union")]
  .map((one) => getComputedStyle(one).opacity).join(" ")"""


def fake_run(folder, name, store, seed):
    """Write a run folder with results and a table of queries, and return it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    folder.mkdir()
    images = store.images[store.images["split"] == "test"]["id"].tolist()
    captions = store.captions[store.captions["split"] == "test"]
    names = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    numbers = dict(zip(names, random.uniform(5, 90, 6).round(1).tolist(), strict=True))
    numbers["rsum"] = sum(numbers.values())
    content = {
        "images": len(images),
        "captions": len(captions),
        "chance": dict.fromkeys([*names, "rsum"], 1.0),
        "runs": [{"config": {"model": {"name": "gsmn"}}, "step": 20}],
        "rows": [{"name": name, "metrics": numbers, "intervals": {"rsum": [9.0, 400.0]}}],
    }
    (folder / "results-test.json").write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(
        "step,kind,loss,i2t_r1,t2i_r1,rsum\n10,train,2.0,,,\n20,train,1.5,,,\n20,val,,9,8,99\n"
    )
    rows = []
    for way, queries, answers in (
        ("t2i", captions["id"].tolist(), images),
        ("i2t", images, captions["id"].tolist()),
    ):
        for query in queries:
            best = random.permutation(answers)[:5].tolist()
            rank = int(random.integers(1, 9))
            rows.append(
                {"direction": way, "query": query, "rank": rank, "answers": best,
                 "scores": [0.9 - 0.1 * n for n in range(len(best))]}
            )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "queries-test.parquet")
    return folder
