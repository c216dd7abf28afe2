"""Pages about runs: tables from the files of a run, rankings by its model."""

import re
import threading

import numpy as np
import pytest

import models
from features.errors import MismatchError, MissingInput
from features.web import Shelf, create_app, listen
from models.configuration import from_dict
from models.evaluate import evaluate
from models.train import train
from models.web import Runs, add_runs

SPLIT = "test"


@pytest.fixture
def setting(tiny_store, tmp_path):
    """A store with two evaluated runs, and the app that shows them."""
    store = tiny_store(images=24)
    folders = []
    for name in ("sgm", "vse"):
        options = {"embed_dim": 16, "word_dim": 8}
        tree = {
            "model": {"name": name, "options": options},
            "data": {"store": str(store.path), "batch_size": 32},
            "run": {"folder": str(tmp_path / f"my {name}"), "max_steps": 2},
        }
        train(from_dict(tree))
        folders.append(tmp_path / f"my {name}")
    evaluate(folders, str(store.path), split=SPLIT, bootstrap=20, positives=None)
    shelf = Shelf([store.path])
    runs = Runs(folders, shelf)
    app = create_app(shelf, token="secret", extensions=[add_runs(lambda shelf: runs)])
    return store, shelf, runs, app


def text(answer):
    assert answer.status_code == 200, answer.get_data(as_text=True)[-400:]
    return re.sub(r"\s+", " ", answer.get_data(as_text=True))


@pytest.mark.slow
def test_tables_rankings_and_maps(setting, monkeypatch, open_page):
    store, shelf, runs, app = setting
    client = app.test_client()
    client.get("/?token=secret")
    served = runs.served["my-sgm"]
    sims = models.score_all(served.run.model, store, SPLIT, served.run.codebook).numpy()
    found = models.recall(sims, store.caption_image_rows(SPLIT))

    overview = text(client.get("/tiny/runs/"))
    assert 'href="/tiny/runs/my-sgm"' in overview
    assert f"{found.rsum:.1f}" in overview
    assert "my-sgm − my-vse" in overview or "my-vse − my-sgm" in overview
    other = runs.served["my-vse"]
    theirs = models.score_all(other.run.model, store, SPLIT, other.run.codebook).numpy()
    second = models.recall(theirs, store.caption_image_rows(SPLIT))
    assert f"{abs(found.rsum - second.rsum):+.1f}<small>" in overview
    assert 'class="chart"' in overview
    assert client.get("/tiny/runs/?split=nowhere").status_code == 404

    one = text(client.get("/tiny/runs/my-sgm"))
    worst = int(np.argmax(found.t2i_ranks))
    assert f"its image has rank {found.t2i_ranks[worst] + 1}" in one
    assert client.get("/tiny/runs/other").status_code == 404

    rows, captions = store.image_rows(SPLIT), store.caption_rows(SPLIT)
    ranked = served.rank_captions(int(rows[2]), SPLIT)
    order = np.argsort(-sims[2], kind="stable")[: len(ranked)]
    assert [row for row, _ in ranked] == captions[order].tolist()
    shown = text(client.get(f"/tiny/images/{rows[2]}/captions?run=my-sgm"))
    own = {row for row, _ in ranked} & set(shelf.first.caption_rows(int(rows[2])))
    assert shown.count("its own</b>") == len(own)
    assert shown.count("<li><span") + shown.count('<li class="right"') == len(ranked)

    caption = int(captions[7])
    graph = store.text(store.captions["id"][store.captions["row"] == caption].iloc[0])
    monkeypatch.setattr("models.web.served.LiveParser.parse", lambda self, text: graph)
    page = text(client.get(f"/tiny/?text=anything&run=my-sgm&split={SPLIT}"))
    best = rows[np.argsort(-sims[:, 7], kind="stable")].tolist()
    assert list(map(int, re.findall(r'href="/tiny/images/(\d+)\?', page))) == best
    assert f"Ranked the images of {SPLIT}." in page
    assert client.get("/tiny/?text=...&run=my-sgm").status_code == 400

    words = text(client.get(f"/tiny/images/{rows[0]}/words?run=my-sgm"))
    assert words.count("data-shares=") >= 2
    assert "does not align" in text(client.get(f"/tiny/images/{rows[0]}/words?run=my-vse"))
    assert captions[7] not in shelf.first.caption_rows(int(rows[0]))
    foreign = f"/tiny/images/{rows[0]}/words?run=my-sgm&caption={captions[7]}"
    assert client.get(foreign).status_code == 404
    assert f"/tiny/images/{rows[0]}/words" in text(client.get(f"/tiny/images/{rows[0]}"))

    server = listen(app, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.port}/tiny/"
        for path in ("runs/", "runs/my-sgm", f"images/{rows[0]}/captions",
                     "photo", f"images/{rows[0]}/words?run=my-sgm"):  # fmt: skip
            visit = open_page(f"{root}{path}{'&' if '?' in path else '?'}token=secret")
            assert visit.faults() == [], path
        most = rows[store.column("num_objects")[rows].argmax()]
        page = open_page(f"{root}images/{most}/words?run=my-sgm&token=secret").page
        shades = "all => all.map(one => one.getAttribute('fill')).join()"
        seen = [page.locator("[data-region]").evaluate_all(shades)]
        for button in page.locator("[data-shares]").all():
            button.focus()
            seen.append(page.locator("[data-region]").evaluate_all(shades))
        assert seen[0] in seen[1:]  # the first one is drawn without a script
        assert len(set(seen)) >= 2
    finally:
        server.shutdown()
        server.server_close()


def test_a_run_must_fit_a_store(setting, tiny_store, tmp_path):
    folder = setting[2].served["my-sgm"].folder
    other = Shelf([tiny_store(images=6, seed=9).path])
    with pytest.raises(MismatchError, match="trained on"):
        Runs([folder], other)
    with pytest.raises(MissingInput, match=r"store\.json"):
        Runs([tmp_path], other)
    with pytest.raises(MissingInput, match="no run folder"):
        Runs([tmp_path / "nowhere"], other)
