"""Gold boxes of COCO (instances, panoptic, results) and of PSG."""

import json

import pytest

from features.convert import open_source
from features.convert.safe.json_files import stream_items
from features.errors import InputError
from pipeline.vision.detection import create_detector

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
IMAGES = [
    {"id": 7, "file_name": "000000000007.jpg", "width": 100, "height": 80},
    {"id": 8, "file_name": "000000000008.jpg", "width": 50, "height": 40},
]
BOX = {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 40], "iscrowd": 0}


def put(path, **changes):
    document = {"info": {}, "images": IMAGES, "annotations": [BOX], "categories": CATEGORIES}
    path.write_text(json.dumps({**document, **changes}))
    return path


def test_instances(tmp_path):
    crowd = {**BOX, "iscrowd": 1, "category_id": 1}
    wide = {**BOX, "category_id": 1, "bbox": [90.5, 0, 20, 10]}
    source = open_source("coco", put(tmp_path / "i.json", annotations=[crowd, BOX, wide]))
    found = source.read("COCO_val2014_000000000007.jpg")
    assert found.labels == ("dog", "person")
    assert found.boxes.tolist() == [[10, 20, 40, 60], [90.5, 0, 100, 10]]
    assert found.size == (100, 80)
    assert source.provides == {"labels", "size"}
    assert source.notes == [f"{tmp_path / 'i.json'}: 1 crowds (iscrowd) were left out."]
    assert source.read("000000000008.jpg").labels == ()
    assert source.classes == ("person", "dog")
    detector = create_detector("coco", path=tmp_path / "i.json")
    assert detector.covers("000000000007")
    assert not detector.covers("9")


def test_the_order_of_the_lists_does_not_matter(tmp_path):
    path = tmp_path / "i.json"
    path.write_text(
        json.dumps({"annotations": [BOX], "categories": CATEGORIES, "images": IMAGES}, indent=1)
    )
    assert open_source("coco", path).read("000000000007.jpg").labels == ("dog",)


def test_panoptic_and_results(tmp_path):
    segment = {"category_id": 200, "bbox": [0, 0, 100, 40], "iscrowd": 0, "area": 4000}
    note = {"image_id": 7, "segments_info": [segment, BOX], "file_name": "7.png"}
    more = [*CATEGORIES, {"id": 200, "name": "sky-other-merged", "isthing": 0}]
    path = put(tmp_path / "panoptic.json", annotations=[note], categories=more)
    assert open_source("coco", path).read("000000000007.jpg").labels == ("sky", "dog")
    results = tmp_path / "results.json"
    results.write_text(
        json.dumps([{**BOX, "score": 0.25}, {**BOX, "score": 0.75, "category_id": 1}])
    )
    with pytest.raises(InputError, match="--extra instances=FILE"):
        open_source("coco", results)
    source = open_source("coco", results, {"instances": str(put(tmp_path / "i.json"))})
    found = source.read("000000000007.jpg")
    assert found.labels == ("person", "dog")
    assert found.scores.tolist() == [0.75, 0.25]
    assert "scores" in source.provides


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotations": [{**BOX, "image_id": 9}]}, "not in 'images'"),
        ({"annotations": [{**BOX, "category_id": 2}]}, "not in 'categories'"),
        ({"annotations": [{**BOX, "category_id": None}]}, "category id"),
        ({"annotations": [{**BOX, "image_id": None}]}, "not text"),
        ({"annotations": [{"id": 1, "image_id": 7, "caption": "a"}]}, "captions file"),
        ({"annotations": [3]}, "JSON object"),
        ({"annotations": {}}, "not text"),
        ({"categories": [{"id": 1, "name": None}]}, "not text"),
        ({"categories": [*CATEGORIES, CATEGORIES[0]]}, "listed twice"),
        ({"images": [*IMAGES, IMAGES[0]]}, "listed twice"),
        ({"images": [{**IMAGES[0], "file_name": None}]}, "not text"),
        ({"images": [{**IMAGES[0], "width": "x"}]}, "not a number"),
        ({"images": []}, "not COCO's"),
    ],
)
def test_hostile_files(tmp_path, changes, reason):
    with pytest.raises(InputError, match=reason):
        open_source("coco", put(tmp_path / "i.json", **changes))


@pytest.mark.parametrize("box", [None, [1, 2, 3], [1, 2, -3, 4], [1, 2, 3, "4"], [1, 2, 3, True]])
def test_bad_boxes_are_named_with_their_image(tmp_path, box):
    source = open_source("coco", put(tmp_path / "i.json", annotations=[{**BOX, "bbox": box}]))
    with pytest.raises(InputError, match=r"image '000000000007\.jpg': 'bbox'"):
        source.read("000000000007.jpg")
    assert source.read("000000000008.jpg").labels == ()


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2', '{"a": [1 2]}', '{"a": 1, "a": 2}', "{} x", "3", ""]
)
def test_streamed_json_is_strict(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json: not usable JSON"):
        list(stream_items(path))


def test_streamed_json_over_many_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("features.convert.safe.json_files._CHUNK", 7)
    document = {"x": [1.5e3, "a\u00e9", {"b": [1]}], "y": {"z": []}, "w": [], "v": None}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2))
    assert list(stream_items(path)) == [
        ("x", 1500.0),
        ("x", "a\u00e9"),
        ("x", {"b": [1]}),
        ("y", {"z": []}),
        ("v", None),
    ]
    path.write_text("[1, [2]]")
    assert list(stream_items(path)) == [("", 1), ("", [2])]


PSG = {
    "thing_classes": ["person", "dog"],
    "stuff_classes": ["sky-other-merged"],
    "predicate_classes": ["over", "holding"],
    "data": [
        {
            "file_name": "val2017/000000000007.jpg",
            "width": 100,
            "height": 80,
            "annotations": [
                {"bbox": [1, 2, 3, 4], "bbox_mode": 0, "category_id": 0},
                {"bbox": [1, 2, 3, 4], "bbox_mode": 1, "category_id": 2},
            ],
            "relations": [[1, 0, 0]],
        }
    ],
}


def test_psg(tmp_path):
    path = tmp_path / "psg.json"
    path.write_text(json.dumps(PSG))
    found = open_source("psg", path).read("000000000007.jpg")
    assert found.labels == ("person", "sky")
    assert found.boxes.tolist() == [[1, 2, 3, 4], [1, 2, 4, 6]]
    assert found.relations == ((1, "over", 0),)
    assert create_detector("psg", path=path).provides == {"labels", "relations", "size"}


@pytest.mark.parametrize(
    "change",
    [
        {"relations": [[0, 5, 0]]},
        {"relations": [[0, 1, 7]]},
        {"relations": [[0, 1]]},
        {"annotations": [{"bbox": [1, 2], "category_id": 0}]},
        {"annotations": [{"bbox": [1, 2, 3, 4], "category_id": 9}]},
        {"width": None},
    ],
)
def test_hostile_psg(tmp_path, change):
    path = tmp_path / "psg.json"
    path.write_text(json.dumps({**PSG, "data": [{**PSG["data"][0], **change}]}))
    with pytest.raises(InputError, match=r"psg\.json"):
        open_source("psg", path).read("val2017/000000000007.jpg")
