"""Exports of untrusted stores: odd names, empty labels, parses that are not trees."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from features.convert.formats import export_store
from features.convert.importing import import_store
from features.convert.writers.outputs import Outputs
from features.convert.writers.text import sentence_trees
from features.drawing.scene_graph import draw_image
from features.errors import InputError, UsageError, WriteError
from features.format.build import build_store
from features.records import Caption, Detections, ImageEntry, TextGraph
from features.store import open_store

BOXES = np.float32([[0, 0, 9, 9], [1, 1, 8, 8], [2, 2, 7, 7]])


def text(heads=(1, -1)):
    n = len(heads)
    return TextGraph(
        "a dog",
        tuple("abcdefghij"[:n]),
        lemmas=("a",) * n,
        upos=("X",) * n,
        xpos=("NN",) * n,
        heads=heads,
        deprels=tuple("root" if head < 0 else "det" for head in heads),
        roles=("other",) * n,
    )


def store(
    folder,
    ids=("1.jpg",),
    *,
    splits=("train",),
    size=(10, 10),
    parsed=True,
    labels=("dog", "cat", "hat"),
    predicates=("on", "near"),
    heads=(1, -1),
    file=None,
):
    """Build a store of one graph for all images; five captions each."""
    found = Detections(
        BOXES,
        labels,
        np.float32([0.9, 0.8, 0.7]),
        size,
        relations=((0, predicates[0], 1), (2, predicates[1], 0)),
        relation_scores=np.float32([0.6, 0.5]),
    )
    entries = [
        ImageEntry(
            key,
            key if file is None else file,
            splits[at % len(splits)],
            tuple(Caption(f"{at}-{n}", "a dog") for n in range(5)),
        )
        for at, key in enumerate(ids)
    ]
    count = len(ids)
    return open_store(
        build_store(
            folder,
            "toy",
            entries,
            visual=[found] * count,
            regions=[(np.ones((3, 4)), np.ones((2, 4)))] * count,
            texts=[text(heads)] * (5 * count) if parsed else None,
            max_objects=3,
            max_relations=2,
        )
    )


def export(kind, made, out, **options):
    return export_store(kind, made.path, out, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("split", ["../../evil", "/tmp/evil_of_a_test", "a\0b", "a\\b"])
def test_a_split_name_that_leads_out_of_the_folder(tmp_path, split):
    evil = store(tmp_path / "s", splits=(split,))
    out = tmp_path / "x" / "y" / "out"
    with pytest.raises(UsageError, match="is outside it"):
        export("scan-precomp", evil, out)
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(Path("/tmp").glob("evil_of_a_test*"))


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/a", "a\\b", "\0"])
def test_outputs_accept_plain_names_only(tmp_path, name):
    outputs = Outputs(tmp_path / "o")
    for method in (outputs.path, outputs.absent):
        with pytest.raises(UsageError, match="outside"):
            method(name)


def test_old_files_of_the_format_are_removed(tmp_path):
    out = tmp_path / "p"
    full = store(tmp_path / "full", ("1.jpg", "2.jpg"), splits=("train", "val"))
    export("scan-precomp", full, out, min_count=1)
    before = names(out)
    (out / "notes.txt").write_text("mine")
    (out / "testall_ims.npy").write_bytes(b"old")
    bare = store(tmp_path / "bare", splits=("train",), size=(0, 0), parsed=False)
    with pytest.raises(UsageError, match="--overwrite"):
        export("scan-precomp", bare, out)
    (out / "train_ims.npy").unlink()
    (out / "train_caps.txt").unlink()
    (out / "train_ids.txt").unlink()
    with pytest.raises(UsageError, match=r"train_.*--overwrite"):  # only old extras are left
        export("scan-precomp", bare, out)
    export("scan-precomp", bare, out, overwrite=True)
    gone = {"train_ims_bbx.npy", "train_ims_size.npy", "train_precaps_stan.txt", "train_caps.json"}
    kept = {*before, "notes.txt", "testall_ims.npy"} - gone
    assert set(names(out)) == kept  # dev is another split
    tested = store(tmp_path / "tested", splits=("test",))
    export("scan-precomp", tested, out, overwrite=True, min_count=1)
    assert "testall_ims.npy" not in names(out)  # it would hide the new test
    assert "test_ims.npy" in names(out)


def test_old_tables_and_captions_are_removed(tmp_path):
    full, bare = store(tmp_path / "full"), store(tmp_path / "bare", parsed=False)
    for kind, name in (("parquet", "objects.parquet"), ("lgsgm", "caps_data.json")):
        out = tmp_path / name
        export(kind, full, out)
        assert (out / name).exists()
        export(kind, bare, out, overwrite=True)
        assert not (out / name).exists()


def test_a_failed_export_removes_nothing(tmp_path):
    (tmp_path / "old.txt").write_text("old")

    def stop_half_way():
        with Outputs(tmp_path, overwrite=True) as out:
            out.absent("old.txt")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop_half_way()
    assert names(tmp_path) == ["old.txt"]


def test_a_failed_export_leaves_no_folder_of_its_own(tmp_path):
    (tmp_path / "old").mkdir()

    def stop_half_way(folder):
        with Outputs(folder) as out:
            out.path("a.txt").write_text("half")
            raise RuntimeError

    for folder in ("old", "new/inner"):
        with pytest.raises(RuntimeError):
            stop_half_way(tmp_path / folder)
    assert names(tmp_path) == ["old"]


def test_two_splits_of_one_name(tmp_path):
    both = store(tmp_path / "s", ("1.jpg", "2.jpg"), splits=("val", "dev"))
    with pytest.raises(UsageError, match="two splits are 'dev'"):
        export("scan-precomp", both, tmp_path / "o")
    export("scan-precomp", both, tmp_path / "o", splits=["val", "val"])
    assert (tmp_path / "o" / "dev_ids.txt").read_text() == "1.jpg\n"


def test_the_vocabulary_is_named_after_the_folder(tmp_path, monkeypatch):
    made = store(tmp_path / "s")
    (tmp_path / "f30k_precomp").mkdir()
    monkeypatch.chdir(tmp_path / "f30k_precomp")
    export("scan-precomp", made, ".", min_count=1)
    assert "f30k_precomp_vocab.json" in names(Path())


@pytest.mark.parametrize("key", ["a\nb", "a\u2028b", "a\ud800", ""])
def test_ids_that_are_not_one_line(tmp_path, key):
    odd = store(tmp_path / "s", (key, "2.jpg"))
    np.save(tmp_path / "e.npy", np.ones((2, 4), np.float32))
    with pytest.raises(UsageError, match=r"ids\.txt has one id per line"):
        export("scan-precomp", odd, tmp_path / "o")
    with pytest.raises(UsageError, match=r"ids\.txt has one id per line"):
        export("faiss", odd, tmp_path / "f", embeddings=tmp_path / "e.npy")


def test_a_full_disk_while_faiss_writes(tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    made = store(tmp_path / "s")
    np.save(tmp_path / "e.npy", np.ones((1, 4), np.float32))

    def full(index, path):
        Path(path).write_bytes(b"torn")
        raise RuntimeError(
            "Error in write_index(int):\nwritten: 1 != 2 (No space left on device)\n"
        )

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(WriteError, match=r"f/index\.faiss: cannot be written \(No space left"):
        export("faiss", made, tmp_path / "f", embeddings=tmp_path / "e.npy")
    assert not (tmp_path / "f").exists()


def test_sgb_without_labels_and_predicates(tmp_path):
    odd = store(tmp_path / "s", labels=("dog", "", "hat"), predicates=("", "near"))
    notes = export("sgb", odd, tmp_path / "o")
    assert any("1 objects without a label" in note for note in notes)
    assert any("1 relations without a predicate" in note for note in notes)
    entry = json.loads((tmp_path / "o" / "custom_prediction.json").read_text())["0"]
    assert entry["bbox_labels"][1] == 0
    assert all(entry["rel_labels"])  # 0 is "no relation"
    back = open_store(import_store("sgb", tmp_path / "o", tmp_path / "b").manifest).graph("1.jpg")
    assert back.labels == ("dog", "__background__", "hat")
    assert back.relations == ((2, "near", 0),)
    assert back.relation_scores.tolist() == [0.5]
    bare = store(tmp_path / "t", labels=("", "", ""), predicates=("", ""))
    export("sgb", bare, tmp_path / "q")
    entry = json.loads((tmp_path / "q" / "custom_prediction.json").read_text())["0"]
    assert entry["rel_pairs"] == []


def test_sgb_names_of_several_folders_stay_distinct(tmp_path):
    made = store(tmp_path / "s", ("train/1", "val/1", "2"))
    assert any("share file names" in note for note in export("sgb", made, tmp_path / "o"))
    back = open_store(import_store("sgb", tmp_path / "o", tmp_path / "b").manifest)
    assert back.images["id"].tolist() == ["train_1", "val_1", "2"]
    made = store(tmp_path / "t", ("train/1", "val/2"))  # distinct already
    assert len(export("sgb", made, tmp_path / "p")) == 1
    made = store(tmp_path / "u", ("a/b/1", "a/b_1", "c/1"))
    with pytest.raises(UsageError, match="the same file name"):
        export("sgb", made, tmp_path / "q")


def test_coco_ids_stay_distinct(tmp_path):
    for ids, wanted in (
        (("7", "007"), [0, 1]),
        (("9" * 30, "8"), [0, 1]),
        (("7", "0009"), [7, 9]),
        (("7" * 5000, "8"), [0, 1]),
    ):
        made = store(tmp_path / ids[0][:30] / ids[1], ids)
        path = tmp_path / "o.json"
        export("coco-captions", made, path, overwrite=True)
        document = json.loads(path.read_text())
        assert [image["id"] for image in document["images"]] == wanted
        assert [image["image_name"] for image in document["images"]] == list(ids)
        assert {note["image_id"] for note in document["annotations"]} == set(wanted)


def trees(path):
    """Return the heads of every sentence as another reader sees them; check that they are trees."""
    found = []
    for block in path.read_text().strip("\n").split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n") if not line.startswith("#")]
        heads = [int(row[6]) for row in rows]
        assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
        assert heads.count(0) == 1
        assert [row[7] == "root" for row in rows] == [head == 0 for head in heads]
        for at in range(1, len(heads) + 1):
            for _ in heads:
                assert at == 0 or heads[at - 1] != at
                at = heads[at - 1] if at else 0
            assert at == 0  # no cycle
        found.append(heads)
    return found


@pytest.mark.parametrize(
    ("heads", "sentences"),
    [
        ((1, 3, -1, -1, 3), [[2, 4, 4, 0, 4]]),  # a comma without a head in the sentence
        ((1, -1, 1, 4, -1), [[2, 0, 2], [2, 0]]),  # two sentences
        ((0, 0, -1), [[0, 1], [0]]),  # a token that is its own head
        ((1, 2, 0, -1), [[0, 3, 1], [0]]),  # a cycle
        ((2, -1, -1, 1), [[3, 0, 2, 2]]),  # edges that cross
    ],
)
def test_conllu_is_trees(tmp_path, heads, sentences):
    made = store(tmp_path / "s", heads=heads)
    notes = export("conllu", made, tmp_path / "o")
    assert trees(tmp_path / "o") == 5 * sentences
    assert bool(notes) == (heads != (1, -1, 1, 4, -1))


def test_every_parse_becomes_trees():
    rng = np.random.default_rng(0)
    for n in [0, 1, *rng.integers(2, 9, 300).tolist()]:
        heads = rng.integers(-1, max(n, 1), n).tolist()
        starts, whole = sentence_trees(heads)
        assert starts[:1] == [0][:n]
        for start, stop in itertools.pairwise([*starts, n]):
            inside = whole[start:stop]
            assert inside.count(-1) == 1
            assert all(head < 0 or start <= head < stop for head in inside)
            for at in range(start, stop):
                for _ in inside:
                    at = whole[at] if at >= 0 else at
                assert at < 0


def test_a_drawing_shows_images_of_its_folder_only(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (10, 10), (255, 0, 0)).save(tmp_path / "secret.jpg")
    for at, name in enumerate(["../secret.jpg", str(tmp_path / "secret.jpg")]):
        evil = store(tmp_path / str(at), file=name)
        with pytest.raises(InputError, match="leads out"):
            draw_image(evil, "1.jpg", tmp_path / "o.png", tmp_path / "photos")
    Image.new("RGB", (10, 10)).save(tmp_path / "photos" / "1.jpg")
    for at, name in enumerate(["1.jpg", ""]):  # an import may have the id only
        made = store(tmp_path / f"s{at}", file=name)
        assert draw_image(made, "1.jpg", tmp_path / "o.png", tmp_path / "photos").exists()
