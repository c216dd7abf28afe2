"""Exports: what the released loaders read, and export -> import gives equal columns."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from features.commands.app import app
from features.convert.importing import import_store
from features.convert.readers.gsmn_text import dependency_pairs
from features.convert.readers.sgb import SceneGraphBenchmark
from features.convert.writers.outputs import Outputs
from features.errors import DamagedError, InputError, UnknownName, UsageError, WriteError
from features.format.build import build_store
from features.records import Caption, Detections, ImageEntry, TextGraph
from features.store import Store, open_store

K, R, D = 36, 4, 8
LABELS = ("man", "hat", "dog", "ball: red")
PREDICATES = ("on", "wearing", "next to")


def detections(row: int) -> Detections:
    rng = np.random.default_rng(row)
    n = 1 + row % 5
    low = rng.uniform(0, 90, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 100, (n, 2))], 1).astype(np.float32)
    m = min(n - 1, R)
    return Detections(
        boxes=boxes,
        labels=tuple(LABELS[(row + i) % 4] for i in range(n)),
        scores=np.sort(rng.uniform(0, 1, n).astype(np.float32))[::-1].copy(),
        size=(200, 200 + row),
        relations=tuple((i + 1, PREDICATES[(row + i) % 3], i) for i in range(m)),
        relation_scores=np.sort(rng.uniform(0, 1, m).astype(np.float32))[::-1].copy(),
    )


def text(at: int) -> TextGraph:
    if at % 7 == 3:  # two sentences
        tokens, heads = ("Dogs", "run", ".", "Cats", "sleep"), (1, -1, 1, 4, -1)
    else:
        tokens, heads = ("A", f"w{at % 3}", "sees", "a", "Dog"), (1, 2, -1, 4, 2)
    return TextGraph(
        " ".join(tokens),
        tokens,
        lemmas=tuple(token.lower() for token in tokens),
        upos=("X",) * 5,
        xpos=("NN",) * 5,
        heads=heads,
        deprels=tuple("root" if head < 0 else "dep" for head in heads),
        roles=("other", "object", "relation", "other", "object"),
        objects=("man", "dog"),
        object_positions=((1,), (4,)),
        relations=((0, "see", 1),),
        relation_positions=((2,),),
    )


def build(folder: Path, sizes: dict[str, int], *, captions: int = 5) -> Store:
    images, visual, regions, texts = [], [], [], []
    for split, count in sizes.items():
        for _ in range(count):
            row = len(images)
            graphs = [text(row * captions + n) for n in range(captions)]
            # a line break in a caption must not shift later lines
            said = [
                Caption(str(100 + row * 9 + n), g.caption.replace(" ", "\n", 1))
                for n, g in enumerate(graphs)
            ]
            images.append(ImageEntry(f"{row} \u00e9.jpg", f"{row}.jpg", split, tuple(said)))
            found = detections(row)
            n, m = len(found.labels), len(found.relations)
            rng = np.random.default_rng(row + 1000)
            visual.append(found)
            regions.append((rng.normal(size=(n, D)), rng.normal(size=(m, D))))
            texts += graphs
    made = build_store(
        folder, "toy", images, visual=visual, regions=regions, texts=texts, max_relations=R
    )
    return open_store(made)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return build(tmp_path_factory.mktemp("toy") / "s", {"train": 70, "val": 3, "test": 4})


def run(*arguments: object) -> int:
    return app.call(["export", *map(str, arguments)])


class ReleasedLoader:
    """Read a folder as SCAN's and GSMN's data.py do: which row belongs to which caption."""

    def __init__(self, folder: Path, split: str):
        self.captions = (folder / f"{split}_caps.txt").read_bytes().split(b"\n")[:-1]
        self.words = (folder / f"{split}_precaps_stan.txt").read_bytes().split(b"\n")[:-1]
        self.images = np.load(folder / f"{split}_ims.npy")
        self.boxes = np.load(folder / f"{split}_ims_bbx.npy")
        self.sizes = np.load(folder / f"{split}_ims_size.npy", allow_pickle=True)
        self.pairs = json.loads((folder / f"{split}_caps.json").read_text())
        self.div = 5 if len(self.images) != len(self.words) else 1
        self.length = 5000 if split == "dev" else len(self.words)

    def __getitem__(self, at: int):
        row = at // self.div
        size = self.sizes[row]
        scale = np.float32([size["image_w"], size["image_h"]] * 2)
        ids = [int(word) for word in self.words[at].split(b",")]
        return self.captions[at], self.images[row], self.boxes[row] / scale, ids, self.pairs[at]


def test_scan_is_what_the_released_loaders_read(store, tmp_path, capsys):
    out = tmp_path / "toy_precomp"
    assert run("scan-precomp", store.path, out, "--min-count", 1) == 0
    assert "dev has 15 captions; the released loaders assume 5000" in capsys.readouterr().out
    vocab = json.loads((out / "toy_precomp_vocab.json").read_text())
    assert [vocab["idx2word"][str(i)] for i in range(4)] == ["<pad>", "<start>", "<end>", "<unk>"]
    assert vocab["idx"] == len(vocab["word2idx"]) == len(vocab["idx2word"])
    raw = (out / "train_ims_size.npy").read_bytes()
    assert b"numpy.core.multiarray" in raw  # numpy 1 has no numpy._core
    for split, ours, div in (("train", "train", 5), ("dev", "val", 1), ("test", "test", 1)):
        data = ReleasedLoader(out, split)
        assert data.div == div
        rows, captions = store.splits[ours], store.caption_rows(ours)
        assert data.images.dtype == data.boxes.dtype == np.float32
        assert data.images.shape == (len(rows) * 5 // div, K, D)
        texts, owner = store.captions["text"].tolist(), store.image_of_caption(captions)
        ids = (out / f"{split}_ids.txt").read_text().splitlines()
        assert ids == [store.column("image_id")[row] for row in rows]
        for at, (caption, image) in enumerate(zip(captions.tolist(), owner.tolist(), strict=True)):
            line, features, boxes, words, pairs = data[at]
            assert line.decode() == texts[caption].replace("\n", " ")
            np.testing.assert_array_equal(features, store.gather("object_features", [image])[0])
            wanted = store.gather("boxes", [image])[0] / np.float32([200, 200 + image] * 2)
            np.testing.assert_allclose(boxes, wanted, rtol=1e-6)
            graph = text(caption)
            assert (words[0], words[-1]) == (1, 2)
            for number, token in enumerate(graph.tokens, 1):  # word i from 1 is row i
                assert vocab["idx2word"][str(words[number])] == token.lower()
            assert pairs == dependency_pairs(graph)
            edges = {(head, dependent) for head, dependent in pairs[1:]}  # the first is ROOT's
            assert edges == {(h + 1, d + 1) for d, h in enumerate(graph.heads) if h >= 0}


def test_scan_round_trip(store, tmp_path):
    run("scan-precomp", store.path, tmp_path / "p", "--min-count", 1)
    back = open_store(import_store("scan-precomp", tmp_path / "p", tmp_path / "s").manifest)
    assert back.images["id"].tolist() == store.images["id"].tolist()
    assert {k: v.tolist() for k, v in back.splits.items()} == {
        k: v.tolist() for k, v in store.splits.items()
    }
    every = np.arange(len(store))
    for column in ("object_features", "boxes", "image_size"):
        np.testing.assert_array_equal(back.gather(column, every), store.gather(column, every))
    assert back.captions["text"].tolist() == [t.replace("\n", " ") for t in store.captions["text"]]
    for name in ("form", "lemma"):
        ours = [name.lower() for name in store.coded(name).tolist()]
        assert back.coded(name).tolist() == ours
    for name in ("head", "token_offsets"):
        np.testing.assert_array_equal(back.column(name), store.column(name))
    assert back.coded("deprel").tolist() == store.coded("deprel").tolist()


def test_scan_leaves_out_images_with_fewer_than_five_captions(tmp_path):
    few = build(tmp_path / "few", {"train": 3}, captions=4)
    with pytest.raises(UsageError, match="five captions"):
        run("scan-precomp", few.path, tmp_path / "p")
    many = build(tmp_path / "many", {"train": 3}, captions=6)
    assert run("scan-precomp", many.path, tmp_path / "p") == 0
    lines = (tmp_path / "p" / "train_caps.txt").read_text().splitlines()
    assert lines == [text(6 * row + n).caption for row in range(3) for n in range(5)]


def test_scan_test_folds(tmp_path):
    large = build(tmp_path / "large", {"test": 1003})
    run("scan-precomp", large.path, tmp_path / "p")
    shape = {
        s: np.load(tmp_path / "p" / f"{s}_ims.npy", mmap_mode="r").shape
        for s in ("test", "testall")
    }
    assert shape == {"test": (5000, K, D), "testall": (5015, K, D)}


def test_gsmn_import_hostile(store, tmp_path):
    run("scan-precomp", store.path, tmp_path / "p", "--splits", "val", "--min-count", 1)
    words, pairs = tmp_path / "p" / "dev_precaps_stan.txt", tmp_path / "p" / "dev_caps.json"
    lines, edges = words.read_text(), json.loads(pairs.read_text())
    for first in ("4,5,2", "1,5", "1,99999,2", "1,x,2", ""):
        words.write_text("\n".join([first, *lines.split("\n")[1:]]))
        with pytest.raises(InputError, match="line 1"):
            import_store("scan-precomp", tmp_path / "p", tmp_path / "s")
    words.write_text(lines)
    for first in ([[0, 99]], [[9, 1]], [[1]], "x", [[-1, 1]], [[1, 0]]):
        pairs.write_text(json.dumps([first, *edges[1:]]))
        with pytest.raises(InputError, match="line 1"):
            import_store("scan-precomp", tmp_path / "p", tmp_path / "s")
    pairs.write_text(json.dumps(edges[1:]))
    with pytest.raises(InputError, match="14 entries"):
        import_store("scan-precomp", tmp_path / "p", tmp_path / "s")


GRAPH_COLUMNS = ("boxes", "num_objects", "num_relations", "relations", "union_boxes")


def test_sgb_round_trip(store, tmp_path):
    run("sgb", store.path, tmp_path / "sgb")
    source = SceneGraphBenchmark(tmp_path / "sgb")
    assert source.classes[0] == source.predicates[0] == "__background__"
    back = open_store(
        import_store("sgb", tmp_path / "sgb", tmp_path / "s", max_relations=R).manifest
    )
    every = np.arange(len(store))
    for column in (*GRAPH_COLUMNS, "scores", "relation_scores"):
        np.testing.assert_array_equal(back.gather(column, every), store.gather(column, every))
    for image_id in store.images["id"]:
        ours, theirs = store.graph(image_id), back.graph(image_id)
        assert (ours.labels, ours.relations) == (theirs.labels, theirs.relations)
    entry = json.loads((tmp_path / "sgb" / "custom_prediction.json").read_text())["4"]
    assert [max(row) for row in entry["rel_all_scores"]] == entry["rel_scores"]
    assert [int(np.argmax(row)) for row in entry["rel_all_scores"]] == entry["rel_labels"]


def test_lgsgm_round_trip(store, tmp_path):
    run("lgsgm", store.path, tmp_path / "g")
    back = open_store(
        import_store(
            "lgsgm", tmp_path / "g" / "images_data.json", tmp_path / "s", max_relations=R
        ).manifest
    )
    every = np.arange(len(store))
    for column in GRAPH_COLUMNS:
        np.testing.assert_array_equal(back.gather(column, every), store.gather(column, every))
    for image_id in store.images["id"]:
        ours, theirs = store.graph(image_id), back.graph(image_id)
        assert (ours.labels, ours.relations) == (theirs.labels, theirs.relations)
    captions = json.loads((tmp_path / "g" / "caps_data.json").read_text())
    matching = json.loads((tmp_path / "g" / "image_caption_matching.json").read_text())
    assert list(captions) == store.captions["id"].tolist()
    assert captions["100"]["rels"] == [["man", "see", "dog"]]
    assert matching["1 \u00e9.jpg"] == ["109", "110", "111", "112", "113"]


def test_conllu(store, tmp_path):
    run("conllu", store.path, tmp_path / "a.conllu", "--splits", "val", "test")
    blocks = (tmp_path / "a.conllu").read_text().strip("\n").split("\n\n")
    parsed: dict[str, list[tuple[list[str], list[int]]]] = {}
    for block in blocks:
        head, said, *rows = block.split("\n")
        cells = [row.split("\t") for row in rows]
        assert all(len(row) == 10 for row in cells)
        assert [int(row[0]) for row in cells] == list(range(1, len(cells) + 1))
        assert [row[6] for row in cells].count("0") == 1  # one root per sentence
        assert "\n" not in said
        name = head.removeprefix("# sent_id = ").split("-")[0]
        parsed.setdefault(name, []).append(
            ([row[1] for row in cells], [int(row[6]) for row in cells])
        )
    table = store.captions[store.captions["split"].isin(["val", "test"])]
    assert list(parsed) == table["id"].tolist()
    for key, row in zip(table["id"], table["row"], strict=True):
        tokens, heads, start = [], [], 0
        for words, local in parsed[key]:
            tokens += words
            heads += [start + head - 1 if head else -1 for head in local]
            start += len(words)
        assert (tuple(tokens), tuple(heads)) == (text(row).tokens, text(row).heads)


def test_coco_captions(store, tmp_path):
    run("coco-captions", store.path, tmp_path / "c.json", "--splits", "test")
    found = json.loads((tmp_path / "c.json").read_text())
    assert [i["image_name"] for i in found["images"]] == store.images["id"].tolist()[73:]
    assert found["images"][0]["height"] == 273
    names = {i["id"]: i["image_name"] for i in found["images"]}
    table = store.captions[store.captions["split"] == "test"]
    got = [(str(a["id"]), a["caption"], names[a["image_id"]]) for a in found["annotations"]]
    assert got == list(zip(table["id"], table["text"], table["image"], strict=True))


def test_parquet(store, tmp_path):
    import pandas as pd

    run("parquet", store.path, tmp_path / "t")
    for name in (
        "images",
        "captions",
        "objects",
        "relations",
        "visual_objects",
        "visual_relations",
    ):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / "t" / f"{name}.parquet"),
            store.table(name),
            check_dtype=False,
        )
    run("parquet", store.path, tmp_path / "v", "--splits", "val")
    assert set(pd.read_parquet(tmp_path / "v" / "visual_objects.parquet")["split"]) == {"val"}


def test_faiss(store, tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    rows = np.random.default_rng(0).normal(size=(77, 6)).astype(np.float32)
    np.save(tmp_path / "e.npy", rows)
    given = ("--embeddings", tmp_path / "e.npy", "--of", "images")
    run("faiss", store.path, tmp_path / "f", *given)
    index = faiss.read_index(str(tmp_path / "f" / "index.faiss"))
    scores, found = index.search(rows[:9], 3)
    wanted = np.argsort(-(rows[:9] @ rows.T), axis=1)[:, :3]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(scores[:, 0], (rows[:9] @ rows.T).max(1), rtol=1e-5)
    ids = (tmp_path / "f" / "ids.txt").read_text().splitlines()
    assert ids == store.images["id"].tolist()
    np.testing.assert_array_equal(np.load(tmp_path / "f" / "embeddings.npy"), rows)
    with pytest.raises(InputError, match="one row for each of the captions of val"):
        run("faiss", store.path, tmp_path / "g", *given[:3], "captions", "--splits", "val")


def test_nothing_is_overwritten_or_left_unfinished(store, tmp_path):
    out = tmp_path / "p"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (out / "dev_caps.txt").write_text("old")
    with pytest.raises(UsageError, match="--overwrite"):
        run("scan-precomp", store.path, out)
    assert sorted(path.name for path in out.iterdir()) == ["dev_caps.txt", "mine.txt"]
    run("scan-precomp", store.path, out, "--overwrite")
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "dev_caps.txt").read_text() != "old"
    assert not list(out.glob("*.partial"))
    (tmp_path / "e.npy").write_bytes(b"x")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(RuntimeError):
        stop_half_way(out, RuntimeError())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_damaged_store_is_not_exported(tmp_path):
    """Rows of large columns are read through maps, which compare no hash."""
    made = build(tmp_path / "s", {"train": 4, "test": 2})
    shard = next((tmp_path / "s").glob("regions-*/00000.h5"))
    place = made.group("regions").manifest.record(0).parts["object_features"].offset
    with shard.open("r+b") as file:
        file.seek(place + 1)
        file.write(b"\x7f")
    with pytest.raises(DamagedError, match=r"object_features differs .* --repair"):
        run("scan-precomp", made.path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
    run("conllu", made.path, tmp_path / "out.conllu")  # reads other groups


def stop_half_way(folder: Path, error: Exception) -> None:
    with Outputs(folder, overwrite=True) as outputs:
        outputs.path("dev_caps.txt").write_text("torn")
        raise error


def test_a_pipe_is_not_replaced_by_an_export(tmp_path):
    os.mkfifo(tmp_path / "out.conllu")
    with (
        Outputs(tmp_path / "out.conllu", overwrite=True) as outputs,
        pytest.raises(WriteError, match=r"out\.conllu: a device or a pipe"),
    ):
        outputs.path()
    assert (tmp_path / "out.conllu").is_fifo()


def test_full_disk(tmp_path):
    with pytest.raises(WriteError, match="disk is full"):
        stop_half_way(tmp_path, OSError(28, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_mistakes(store, tmp_path):
    for arguments, error, message in (
        (("scan", store.path, tmp_path / "o"), UnknownName, "scan-precomp"),
        (("conllu", store.path, tmp_path / "o", "--splits", "dev"), UnknownName, "split 'dev'"),
        (
            ("conllu", store.path, tmp_path / "o", "--of", "images"),
            UsageError,
            "has no option --of",
        ),
        (("conllu", store.path, tmp_path), UsageError, "is a folder"),
        (("faiss", store.path, tmp_path / "o"), UsageError, "--embeddings"),
    ):
        with pytest.raises(error, match=message):
            run(*arguments)
    assert not list(tmp_path.iterdir())


def test_stores_without_a_group(tmp_path):
    bare = open_store(build_store(tmp_path / "s", "bare", [ImageEntry("a", "", "x")]))
    for name in ("scan-precomp", "conllu", "sgb", "lgsgm"):
        with pytest.raises(UsageError, match="build the stage"):
            run(name, bare.path, tmp_path / "o")
    run("parquet", bare.path, tmp_path / "o")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "captions.parquet",
        "images.parquet",
    ]
