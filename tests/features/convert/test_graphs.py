"""Readers of graphs and annotations: LGSGM, SGM, Scene-Graph-Benchmark, Visual Genome, Entities."""

import json
from pathlib import Path

import numpy as np
import pytest

from features.convert.readers.entities import EntitiesFolder
from features.convert.readers.scene_graphs import SceneGraphFile
from features.convert.readers.sgb import SceneGraphBenchmark
from features.convert.readers.visual_genome import VisualGenomeFile
from features.convert.safe.json_files import read_json
from features.convert.source import make_detections
from features.errors import FeatureOverflow, InputError, MissingInput, UnknownName
from features.names import child

SHARED = Path(__file__).resolve().parents[3].parent / "shared"


def put(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


LGSGM = {
    "10.jpg": {
        "labels": ["man", "hat", "man"],
        "bbox": [[0, 1, 10, 20], [2.5, 0, 8, 4], [30, 1, 40, 20]],
        "rels": [["man:2", "wearing", "hat:1"], ["hat:1", "on", "man:0"]],
    },
    "9.jpg": {"labels": [], "bbox": [], "rels": []},
}


def test_lgsgm(tmp_path):
    graphs = SceneGraphFile(put(tmp_path / "g.json", LGSGM))
    assert graphs.ids() == ["10.jpg", "9.jpg"]
    found = graphs.read("10")  # without the suffix, too
    assert found.labels == ("man", "hat", "man")
    assert found.relations == ((2, "wearing", 1), (1, "on", 0))
    np.testing.assert_array_equal(found.boxes, np.float32(LGSGM["10.jpg"]["bbox"]))
    assert found.size == (0, 0)
    assert found.scores.tolist() == [1, 1, 1]
    empty = graphs.read("9.jpg")
    assert empty.boxes.shape == (0, 4)
    assert empty.relations == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rels": [["man:3", "on", "hat:1"]]}, "does not name a box"),
        (
            {"rels": [["hat:0", "on", "man:2"]]},
            "does not name a box",
        ),  # the label is not that of row 0
        ({"rels": [["man:-1", "on", "man:0"]]}, "does not name a box"),
        ({"rels": [["man:0", "on"]]}, "three strings"),
        ({"labels": ["man"], "rels": []}, "1 labels for 3 boxes"),
        ({"bbox": [[1, 2, 3]] * 3}, "not \\(n, 4\\)"),
        ({"bbox": [[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 4]]}, "table of numbers"),
        ({"bbox": [["a", 2, 3, 4]] * 3}, "table of numbers"),
        ({"bbox": [[10, 2, 3, 4]] * 3}, "x2 < x1"),
        ({"bbox": 7}, "must be a list"),
    ],
)
def test_lgsgm_hostile(tmp_path, change, message):
    entry = {**LGSGM["10.jpg"], **change}
    graphs = SceneGraphFile(put(tmp_path / "g.json", {"10.jpg": entry}))
    with pytest.raises(InputError, match=message) as caught:
        graphs.read("10.jpg")
    assert "10.jpg" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "\x00\xff",
        '{"img_to_sg": 3}',
    ],
)
def test_damaged_json(tmp_path, text):
    with pytest.raises(InputError):
        SceneGraphFile(put(tmp_path / "g.json", text))


def test_missing_file_and_image(tmp_path):
    with pytest.raises(MissingInput):
        SceneGraphFile(tmp_path / "none.json")
    with pytest.raises(UnknownName, match=r"11\.jpg.*10\.jpg"):
        SceneGraphFile(put(tmp_path / "g.json", LGSGM)).read("11.jpg")
    with pytest.raises(InputError, match="not a number"):
        read_json(put(tmp_path / "n.json", '{"a": Infinity}'))


SGM = {
    "object_dict": {"man": 0, "hat": 1},
    "predicate_dict": {"5": "wearing"},
    "img_to_sg": [
        {
            "sg": {
                "object": [1, 0, -1, 0],  # the first -1 ends the list
                "bbox": [[1, 2, 3, 4], [5, 6, 7, 8], [-1] * 4, [0] * 4],
                "relationship": [[1, 5, 0], [-1, -1, -1], [0, 5, 1]],
            }
        },
        {"filename": "77.jpg", "sg": {"object": [-1], "relationship": []}},
    ],
}


def test_sgm(tmp_path):
    graphs = SceneGraphFile(put(tmp_path / "g.json", SGM))
    assert graphs.ids() == ["0", "77.jpg"]
    found = graphs.read("0")
    assert found.labels == ("hat", "man")
    assert found.relations == ((1, "wearing", 0),)
    assert found.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert graphs.read("77").labels == ()
    assert (graphs.classes, graphs.predicates) == (("man", "hat"), ("wearing",))
    assert any("have no boxes" in note for note in graphs.notes)


@pytest.mark.parametrize(
    "sg",
    [
        {"object": [7], "relationship": []},
        {"object": [0, -1], "relationship": [[0, 5, 1]]},  # refers to padding
        {"object": [0, 0], "bbox": [[0, 0, 1, 1]], "relationship": []},
        {"object": [0], "relationship": [[0, 6, 0]]},
        {"object": [0.5], "relationship": []},
        {"object": "0", "relationship": []},
        {"relationship": []},
        3,
    ],
)
def test_sgm_hostile(tmp_path, sg):
    path = put(tmp_path / "g.json", {**SGM, "img_to_sg": [{"sg": sg}]})
    with pytest.raises(InputError):
        SceneGraphFile(path).read("0")


PREDICTION = {
    "bbox": [[0, 0, 5, 5], [1, 1, 9, 9]],
    "bbox_labels": [1, 2],
    "bbox_scores": [0.5, 0.75],
    "rel_pairs": [[0, 1], [1, 0]],
    "rel_labels": [2, 1],
    "rel_scores": [0.25, 0.5],
    "rel_all_scores": [[0, 0, 0.25], [0, 0.5, 0]],
}
INFO = {
    "idx_to_files": ["/data/a.jpg", "b.jpg"],
    "ind_to_classes": ["__background__", "man", "hat"],
    "ind_to_predicates": ["__background__", "on", "wearing"],
}


def sgb(folder: Path, prediction: object, info: object = INFO) -> SceneGraphBenchmark:
    put(folder / "custom_data_info.json", info)
    put(folder / "custom_prediction.json", {"0": prediction, "1": PREDICTION, "2": PREDICTION})
    return SceneGraphBenchmark(folder)


def test_sgb(tmp_path):
    source = sgb(tmp_path, PREDICTION)
    assert source.ids() == ["a.jpg", "b.jpg"]
    found = source.read("a.jpg")
    assert found.labels == ("hat", "man")  # best first: the rows are swapped
    assert found.scores.tolist() == [0.75, 0.5]
    assert found.relations == ((0, "on", 1), (1, "wearing", 0))
    assert found.relation_scores.tolist() == [0.5, 0.25]
    assert any("1 predictions have no image" in note for note in source.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"bbox_labels": [1, 3]},
        {"bbox_labels": [1, -1]},
        {"bbox_labels": [1]},
        {"rel_pairs": [[0, 2], [1, 0]]},
        {"rel_pairs": [[0], [1]]},
        {"rel_pairs": [[0, 1]]},
        {"rel_labels": [2, "x"]},
        {"bbox_scores": [0.5]},
        {"rel_scores": [0.5]},
        {"bbox": {"0": 1}},
    ],
)
def test_sgb_hostile(tmp_path, change):
    source = sgb(tmp_path, {**PREDICTION, **change})
    with pytest.raises(InputError, match=r"a\.jpg"):
        source.read("a.jpg")


def test_sgb_info_hostile(tmp_path):
    with pytest.raises(InputError, match="no prediction 3"):
        sgb(tmp_path, PREDICTION, {**INFO, "idx_to_files": ["a", "b", "c", "d"]})
    with pytest.raises(InputError, match="ind_to_classes"):
        sgb(tmp_path, PREDICTION, {**INFO, "ind_to_classes": {"0": "man"}})


GENOME = [
    {
        "image_id": 7,
        "objects": [
            {"object_id": 70, "x": -3, "y": 2, "w": 13, "h": 8, "names": ["Man"]},
            {
                "object_id": 71,
                "x": 1,
                "y": 1,
                "w": 200,
                "h": 4,
                "name": "hat",
                "attributes": ["red"],
            },
        ],
        "relationships": [{"predicate": "WEARS", "subject_id": 70, "object_id": 71}],
    }
]


def test_visual_genome(tmp_path):
    put(tmp_path / "image_data.json", [{"image_id": 7, "width": 100, "height": 50}])
    source = VisualGenomeFile(put(tmp_path / "scene_graphs.json", GENOME))
    found = source.read("7")
    assert found.labels == ("man", "hat")
    assert found.boxes.tolist() == [[0, 2, 10, 10], [1, 1, 100, 5]]  # xywh -> xyxy, clipped
    assert found.attributes == ((), ("red",))
    assert found.relations == ((0, "wears", 1),)
    assert found.size == (100, 50)


@pytest.mark.parametrize(
    "change",
    [
        {"objects": [{"object_id": 70, "x": 0, "y": 0, "w": -1, "h": 1, "names": ["a"]}]},
        {"objects": [{"object_id": 70, "x": 0, "y": 0, "w": 1e300, "h": 1, "names": ["a"]}]},
        {"objects": [{"object_id": 70, "x": 0, "y": 0, "w": 1, "names": ["a"]}]},
        {"objects": [{"object_id": 70, "x": 0, "y": 0, "w": 1, "h": 1}]},
        {"relationships": [{"predicate": "on", "subject_id": 70, "object_id": 99}]},
        {"objects": [3]},
    ],
)
def test_visual_genome_hostile(tmp_path, change):
    source = VisualGenomeFile(put(tmp_path / "s.json", [{**GENOME[0], **change}]))
    with pytest.raises(InputError):
        source.read("7")


def test_visual_genome_duplicates(tmp_path):
    other = {"image_id": 7, "objects": [], "relationships": []}
    source = VisualGenomeFile(put(tmp_path / "s.json", [*GENOME, other]))
    assert len(source.read("7").labels) == 2
    assert any("1 entries repeat" in note for note in source.notes)


XML = """<annotation><filename>5.jpg</filename><size><width>50</width><height>40</height></size>
<object><name>1</name><name>2</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>20</xmax><ymax>40</ymax>
</bndbox></object>
<object><name>3</name><nobndbox>1</nobndbox><scene>1</scene></object>
<object><name>2</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>7</ymax></bndbox></object>
</annotation>"""
SENTENCES = (
    "[/EN#2/people/other A small boy] in [/EN#3/scene the park] .\n"
    "He sees [/EN#1/animals two Dogs !] .\n"
)


def entities(folder: Path, xml: str = XML, sentences: str = SENTENCES) -> EntitiesFolder:
    (folder / "A").mkdir()
    (folder / "S").mkdir()
    (folder / "A" / "5.xml").write_text(xml)
    (folder / "S" / "5.txt").write_text(sentences)
    return EntitiesFolder(folder / "A", folder / "S")


def test_entities(tmp_path):
    gold = entities(tmp_path)
    assert gold.ids() == ["5.jpg"]
    found = gold.read("5.jpg")
    # pixels are counted from 1, the last included: 1..20 is twenty pixels wide
    assert found.boxes.tolist() == [[0, 2, 20, 40], [4, 4, 6, 7]]
    assert found.size == (50, 40)
    assert found.labels == ("dogs", "boy")
    assert gold.entities("5") == [("1", "2"), ("2",)]
    phrases = gold.phrases("5")
    assert [(p.text, p.sentence, p.first_word, p.boxes) for p in phrases] == [
        ("A small boy", 0, 0, (0, 1)),
        ("the park", 0, 4, ()),
        ("two Dogs !", 1, 2, (0,)),
    ]
    assert phrases[0].types == ("people", "other")
    assert EntitiesFolder(tmp_path / "A").read("5").labels == ("object", "object")


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("xml", "sentences"),
    [
        (BOMB + XML, SENTENCES),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + XML, SENTENCES),
        ('<!DOCTYPE a SYSTEM "http://example.org/a.dtd">' + XML, SENTENCES),
        (XML[:-20], SENTENCES),
        (XML.replace("5.jpg", "6.jpg"), SENTENCES),
        (XML.replace("<width>50", "<width>0"), SENTENCES),
        (XML, SENTENCES.replace("[/EN#3", "[EN#3")),
        (XML, SENTENCES.replace("[/EN#3", "/EN#3")),
        (XML, SENTENCES.replace(" .", "] .")),
        (XML, SENTENCES + "A dog [/EN"),
        (XML.replace("<xmin>5</xmin>", ""), SENTENCES),
        (XML.replace("<xmax>6</xmax>", "<xmax>1</xmax>"), SENTENCES),
        (XML.replace("<width>50", "<width>1e12"), SENTENCES),
        (XML, "[/EN#1/people a man"),
        ("<annotation/>", SENTENCES),
        ("", SENTENCES),
    ],
)
def test_entities_hostile(tmp_path, xml, sentences):
    gold = entities(tmp_path, xml, sentences)
    with pytest.raises(InputError):
        gold.read("5.jpg")


def test_names_stay_in_their_folder(tmp_path):
    assert child(tmp_path, "a/b.npy") == tmp_path / "a" / "b.npy"
    for name in ("../x", "/etc/passwd", "a/../../x", "", "..\\x", "a\0b", "c:x", "\\x"):
        with pytest.raises(InputError, match="leads out"):
            child(tmp_path, name)


def test_an_image_is_found_under_its_other_names(tmp_path):
    names = ["391895", "12.png", "COCO_train2014_000000000009"]
    graph = {"labels": [], "bbox": []}
    source = SceneGraphFile(put(tmp_path / "g.json", dict.fromkeys(names, graph)))
    assert source.key("COCO_val2014_000000391895.jpg") == "391895"
    assert source.key("000000391895.jpg") == "391895"
    assert source.key("COCO_train2014_000000000009.jpg") == "COCO_train2014_000000000009"
    for other in ("img_391895.jpg", "391895_1", "12.jpg", "9.jpg", "v1.391895"):
        with pytest.raises(UnknownName, match="no image"):
            source.key(other)


def test_order_follows_the_scores():
    found = make_detections(
        "file",
        [[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]],
        labels=["a", "b", "c"],
        scores=[0.25, 0.5, 0.5],
        features=np.arange(6.0).reshape(3, 2),
        attributes=[["x"], [], ["z"]],
        relations=[(0, "p", 2)],
    )
    assert found.labels == ("b", "c", "a")  # equal scores keep the order of the file
    assert found.boxes[:, 3].tolist() == [2, 3, 1]
    assert found.features.tolist() == [[2, 3], [4, 5], [0, 1]]
    assert found.attributes == ((), ("z",), ("x",))
    assert found.relations == ((2, "p", 1),)


@pytest.mark.parametrize("column", ["boxes", "scores", "features"])
def test_values_that_are_not_finite(column):
    values = {"boxes": [[0, 0, 1, 1]], "scores": [1.0], "features": np.ones((1, 3))}
    values[column] = np.full(np.shape(values[column]), np.nan)
    with pytest.raises(FeatureOverflow, match=rf"img 5: {column}"):
        make_detections(
            "img 5", values["boxes"], scores=values["scores"], features=values["features"]
        )


@pytest.mark.realdata
def test_real_files():
    folder = SHARED / "data" / "flickr30k-dev"
    if not folder.is_dir():
        pytest.skip("the development data are not beside the checkout")
    graphs = SceneGraphFile(folder / "lgsgm" / "flickr30k_val_lowered_images_data.json")
    gold = EntitiesFolder(
        folder / "flickr30k_entities" / "Annotations", folder / "flickr30k_entities" / "Sentences"
    )
    assert len(graphs.ids()) == 1014
    assert len(gold.ids()) == 1230
    for image_id in graphs.ids()[::20]:
        found, truth = graphs.read(image_id), gold.read(image_id)
        assert len(found.labels) == 36
        assert len(found.relations) == 25
        width, height = truth.size
        assert found.boxes.max(0)[2:].tolist() <= [width, height]
        assert all(len(p.text.split()) > 0 for p in gold.phrases(image_id))
