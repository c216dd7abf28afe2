"""The report is self-contained, shows the numbers of the store and leaves out what is missing."""

from __future__ import annotations

import re

import pytest

from features.errors import MissingInput
from models.baselines.label_bags import label_bag_scores
from models.report import write_report
from models.reporting.figures import arcs, curves


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
    assert "models.evaluate" in page


def test_labels_of_images_score_every_pair(tiny_store):
    store = tiny_store(images=24)
    scores = label_bag_scores(store, "test")
    assert scores.shape == (8, 40)
    assert (scores == label_bag_scores(store, "test")).all()


def test_arcs_draw_each_head_once(tiny_records):
    graph = max(tiny_records().texts, key=lambda text: len(text.tokens))
    drawing = arcs(graph)
    assert drawing.count('class="arc"') == sum(head >= 0 for head in graph.heads)
    assert drawing.count('class="word') == len(graph.tokens)
    assert curves({"loss": []}, "loss") == ""
