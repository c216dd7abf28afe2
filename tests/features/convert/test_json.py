"""JSON item by item gives the same as json.loads; values in JSON that are not ids."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.convert.readers.sgm import SgmFile
from features.convert.readers.visual_genome import VisualGenomeFile
from features.convert.safe.json_files import JsonItems
from features.errors import InputError, MissingInput, UsageError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    document=st.dictionaries(st.text(), values, max_size=5),
    chunk=st.integers(1, 9),
    escape=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
)
def test_objects(tmp_path, monkeypatch, document, chunk, escape, indent):
    path = tmp_path / "a.json"
    text = json.dumps(document, ensure_ascii=escape, indent=indent)
    path.write_bytes(f" {text}\r\n\t ".encode("utf-8", "surrogatepass"))
    monkeypatch.setattr("features.convert.safe.json_files._CHUNK", chunk)
    items = JsonItems(path)
    assert list(items.spans) == list(document)
    for key in reversed(list(items.spans)):
        assert items.read(key) == document[key]


def test_lists(tmp_path, monkeypatch):
    monkeypatch.setattr("features.convert.safe.json_files._CHUNK", 5)
    document = [{"id": n % 4, "text": "\u00e9\U0001f600" * n} for n in range(7)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    items = JsonItems(path, lambda item, at: f"k{item['id']}")
    assert list(items.spans) == ["k0", "k1", "k2", "k3"]
    assert items.repeated == 3
    assert [items.read(f"k{n}") for n in range(4)] == document[:4]  # the first one counts


@pytest.mark.parametrize("chunk", [1, 3, 1 << 22])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "3",
        "[]",
        "[1]",
        "{",
        '{"a"',
        '{"a":',
        '{"a":1',
        '{"a":1,',
        '{"a":1,}',
        '{"a":1}}',
        '{"a":1} 2',
        '{"a" 1}',
        '{"a":1 "b":2}',
        "{1:2}",
        '{"a":1,"a":2}',
        '{"a":NaN}',
        '{"a":[-Infinity]}',
        '{"a":tru}',
        '{"a":"\\x"}',
        "\ufeff{}",
        '{"a":' + "[" * 200_000,
    ],
)
def test_anything_else(tmp_path, monkeypatch, text, chunk):
    if len(text) > 1000 and chunk < 9:
        chunk = 1000
    monkeypatch.setattr("features.convert.safe.json_files._CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json"):
        JsonItems(path)


def test_strict_inside_items(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"good": {"b": 1}, "bad": {"b": 1, "b": 2}}')
    items = JsonItems(path)
    assert items.read("good") == {"b": 1}
    with pytest.raises(InputError, match=r"a\.json, item 'bad'.*'b' is listed twice"):
        items.read("bad")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError):
        JsonItems(path)
    with pytest.raises(MissingInput):
        JsonItems(tmp_path / "none.json")


def put(folder, value):
    (folder / "g.json").write_text(json.dumps(value))
    return folder / "g.json"


@pytest.mark.parametrize(
    ("objects", "relationships"),
    [
        ([{"object_id": [1]}], []),
        ([{"object_id": {}}], []),
        ([{"object_id": 1}], [{"subject_id": [1], "object_id": 1}]),
        ([{"object_id": 1}], [{"subject_id": 1, "object_id": {"a": 1}}]),
        ([{}], [{"subject_id": 1, "object_id": 1}]),
        ([{}], [{}]),
        ([{"object_id": 1, "x": 10**400}], []),
    ],
)
def test_visual_genome_ids_that_are_not_ids(tmp_path, objects, relationships):
    box = {"x": 1, "y": 1, "w": 5, "h": 5, "names": ["dog"]}
    entry = {"image_id": 1, "objects": [{**box, **item} for item in objects]}
    entry["relationships"] = [{"predicate": "on", **item} for item in relationships]
    with pytest.raises(InputError, match="image '1'"):
        VisualGenomeFile(put(tmp_path, [entry])).read("1")


@pytest.mark.parametrize("table", [{"dog": True}, {"dog": 10**400}, {"dog": 0.5}, {"dog": "x"}])
def test_sgm_class_ids_that_are_not_ids(tmp_path, table):
    with pytest.raises(InputError, match="'object_dict'"):
        SgmFile(put(tmp_path, {"img_to_sg": [], "predicate_dict": {}, "object_dict": table}))


def test_sgm_unions_need_objects(tmp_path):
    with pytest.raises(UsageError, match="objects_dir"):
        SgmFile(
            put(tmp_path, {"img_to_sg": [], "predicate_dict": {}, "object_dict": {}}),
            unions_dir=tmp_path,
        )
