"""The pages: what they show, and the links between them."""

import dataclasses
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest

import features
from features.commands.app import app
from features.errors import MissingInput, UsageError
from features.records import TextGraph
from features.web import Shelf, create_app, find_photos, listen
from features.web.grounding import Light, object_boxes, triplet_boxes
from features.web.scene import graph_of, picture


def text(answer):
    return re.sub(r"\s+", " ", answer.get_data(as_text=True))


def test_the_grid_shows_the_images_of_a_selection(client):
    page = text(client.get("/tiny-set/?find=dog"))
    assert "2 images" in page
    assert page.count('<li class="card') == 2
    assert 'href="/tiny-set/images/1?find=dog"' in page
    assert 'src="/tiny-set/photos/1-360.jpg"' in page
    assert "No image has all of this" in text(client.get("/tiny-set/?label=dog&max=0"))
    skipped = text(client.get("/tiny-set/?skipped=1"))
    assert "cannot be decoded" in skipped


def test_empty_fields_and_late_pages_lead_to_a_tidy_url(client):
    answer = client.get("/tiny-set/?find=dog&split=&label=&label=dog")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/tiny-set/?label=dog&find=dog"
    assert client.get("/tiny-set/?page=99").headers["Location"] == "/tiny-set/"
    assert client.get("/tiny-set/?label=unicorn").status_code == 400
    assert "Did you mean" in text(client.get("/tiny-set/?label=dogg"))


def test_an_image_and_its_neighbours(client):
    page = text(client.get("/tiny-set/images/0?split=train"))
    assert 'data-box="2"' in page
    assert 'data-links="0"' in page
    assert "1 of 2" in page
    assert 'data-key="ArrowRight" href="/tiny-set/images/2?split=train"' in page
    assert client.get("/tiny-set/images/4").status_code == 404
    assert client.get("/tiny-set/image?id=b.jpg").headers["Location"] == "/tiny-set/images/1"
    assert "Skipped: cannot be decoded" in text(client.get("/tiny-set/images/3"))
    hidden = re.findall(r'<li data-item="box"[^>]* hidden>', text(
        client.get("/tiny-set/images/0?confidence=0.85")))  # fmt: skip
    assert len(hidden) == 2


def test_two_parses_side_by_side(client):
    page = text(client.get("/tiny-set/images/1?compare=tiny-set-2"))
    assert page.count("data-view") == 2
    alone = text(client.get("/tiny-set/images/0"))  # "A dog <script>... runs"
    assert (
        '<button type="button" aria-pressed="false" class="triplet alone" data-boxes="">' in alone
    )
    assert page.count(", only here") == 2  # "sit on" and "on"
    assert ", only here" not in text(client.get("/tiny-set/images/0?compare=tiny-set-2"))
    assert client.get("/tiny-set/images/0?compare=nowhere").status_code == 404


def test_photos_are_small_jpegs_that_are_kept(client, shelf):
    answer = client.get("/tiny-set/photos/0-360.jpg")
    assert answer.mimetype == "image/jpeg"
    again = client.get(
        "/tiny-set/photos/0-360.jpg", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert again.status_code == 304
    bare = create_app(Shelf([shelf.first.store.path])).test_client()
    assert bare.get("/tiny-set/photos/0-360.jpg").status_code == 400
    assert "plain ground" in text(bare.get("/tiny-set/images/0"))
    assert "--images-dir" in text(bare.get("/tiny-set/"))


def test_the_folder_that_a_store_was_built_from_is_found(tmp_path, shelf, photos):
    import json
    import shutil

    folder = tmp_path / "store"
    shutil.copytree(shelf.first.store.path.parent, folder)
    store = features.open_store(folder)
    assert find_photos(store) is None
    known = {str(photos / name): [0, 0, ""] for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")}
    (folder / ".hashes.json").write_text(json.dumps({"/elsewhere/a.jpg": [0, 0, ""], **known}))
    assert find_photos(store) == photos
    (folder / ".hashes.json").write_text("damaged")
    assert find_photos(store) is None


def test_captions_light_the_boxes_they_may_mean(shelf):
    site = shelf.first
    graph = graph_of(site, 0)
    said = site.store.text("a.jpg#0")
    assert object_boxes(graph, said, 0) == (0,)  # man: person
    assert object_boxes(graph, said, 1) == (1,)  # bike: bicycle
    assert triplet_boxes(graph, said, 0) == Light((0, 1), 0)  # ride: riding
    other = TextGraph("x", objects=("bike", "tree"), relations=((0, "near", 1),))
    assert triplet_boxes(graph, other, 0) == Light((1,))
    assert object_boxes(graph, other, 1) == ()


def test_tags_keep_apart_and_inside_the_image(shelf):
    shown = picture(graph_of(shelf.first, 0))
    for thing in shown.things:
        x, y, width = thing.tag
        assert x >= 0
        assert y >= 0
        assert y + 1.4 * shown.font <= shown.height + 0.01
        assert x + width <= shown.width + 0.01 or x == 0


def test_tags_of_one_box_keep_apart_on_a_phone(shelf):
    graph = graph_of(shelf.first, 0)
    alike = dataclasses.replace(
        graph, size=(600, 450), boxes=np.float32([[200, 100, 500, 400]] * 3),
        union_boxes=np.float32([[200, 100, 500, 400]] * 2),
    )  # fmt: skip
    shown = picture(alike)
    tops = sorted(thing.tag[1] for thing in shown.things)
    assert all(b - a >= 1.6 * 1.4 * shown.font - 0.01 for a, b in itertools.pairwise(tops))


def test_words_of_a_parse_light_their_boxes(client):
    page = text(client.get("/tiny-set/images/0"))
    words = re.findall(r'<g class="word ([^"]*)"([^>]*)><text class="form"[^>]*>([^<]*)<', page)
    lit = {form: re.search(r'data-boxes="([^"]*)"', marks)[1] for _, marks, form in words if marks}
    assert lit == {"man": "0", "bike": "1"}  # no box is a dog
    assert all('tabindex="0"' in marks for _, marks, _ in words if marks)
    assert ("other", "", "rides") in words


def test_the_command_says_what_is_wrong(tmp_path, shelf):
    with pytest.raises(MissingInput, match="images-dir"):
        app.call(["serve", str(shelf.first.store.path), "--images-dir", str(tmp_path / "no")])
    server = listen(create_app(shelf), port=0)
    try:
        with pytest.raises(UsageError, match="--port"):
            app.call(["serve", str(shelf.first.store.path), "--port", str(server.port)])
    finally:
        server.server_close()


def test_without_flask_the_command_says_what_to_install(shelf):
    program = (
        "import sys; sys.modules['flask'] = None\n"
        "from features.commands.app import app; app.run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", str(shelf.first.store.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'scenestore[web]'" in done.stderr
    assert "Traceback" not in done.stderr
