"""``AddText`` adds parses and text graphs to an imported store, which then trains models."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import features
import models
import pipeline
from features.commands.app import app
from features.format.manifest import store_manifest_path
from features.maintenance.verify import verify_store
from workflows.build.options import TextOptions
from workflows.build.text_plan import stored_text_plan

pytestmark = pytest.mark.cluster

SENTENCES = ("A red ball lies on the grass .", "Two dogs chase a ball .", "A man rides a horse .")


def import_scan(folder, images=6):
    """Import random features in the layout of SCAN; return the store."""
    source = folder / "f30k_precomp"
    source.mkdir()
    random = np.random.default_rng(0)
    for split in ("train", "dev"):
        np.save(source / f"{split}_ims.npy", random.random((images, 4, 12), np.float32))
        lines = [SENTENCES[at % 3] for at in range(5 * images)]
        (source / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
        (source / f"{split}_ids.txt").write_text(
            "".join(f"{split}{row}\n" for row in range(images))
        )
    words = ["import", "scan-precomp", str(source), "--store-dir", str(folder / "st")]
    assert app.call([*words, "--max-objects", "4", "--name", "f30k"]) == 0
    return folder / "st"


def import_boxes(folder, names, captions):
    """Import a TSV with two boxes per image and the captions of a Karpathy file."""
    numbers = np.arange(8, dtype=np.float32).reshape(2, 4)
    coded = [base64.b64encode(a.tobytes()).decode() for a in (numbers, numbers)]
    line = "\t".join(["{}", "100", "80", "2", *coded]) + "\n"
    (folder / "a.tsv").write_text("".join(line.format(name) for name in names))
    words = ["import", "bottom-up-tsv", str(folder / "a.tsv"), "--store-dir", str(folder / "st")]
    assert app.call([*words, "--max-objects", "2", *captions]) == 0
    return folder / "st"


def add(run_luigi, store, *more):
    return run_luigi("AddText", {"--store-dir": store}, "--jobs", "1", *more)


def test_an_imported_store_gets_text_and_trains(tmp_path, run_luigi):
    folder = import_scan(tmp_path)
    before = features.open_store(folder)
    assert not before.has("role")
    code, out, err = add(run_luigi, folder)
    assert (code, err.count("error:")) == (0, 0)
    (line,) = out.strip().splitlines()
    assert line.startswith("f30k: 60 captions: ")
    store = features.open_store(folder)
    assert line.endswith(f"store {store.path}")
    assert verify_store(folder) == []
    assert features.open_store(before.path).hash == before.hash  # the store as it was imported
    np.testing.assert_array_equal(store.column("object_features"), before.column("object_features"))
    graphs = dict(zip(SENTENCES, pipeline.parse(SENTENCES), strict=True))
    for row in store.captions.itertuples():
        assert store.text(row.id) == graphs[row.text]

    import torch

    torch.manual_seed(0)
    book = store.codebook
    for name in ("gsmn", "hrem", "scan", "vse"):
        sizes = {"embed_dim": 32, "word_dim": 16}
        options = dataclasses.asdict(models.options_for(name, store, book, **sizes))
        model = models.create(name, **options)
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
        start = [part.detach().clone() for part in model.parameters()]
        batches = store.loader("train", batch_size=8, codebook=book)
        for _, batch in zip(range(2), batches, strict=False):
            loss = model.loss(*batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            assert loss.isfinite()
        assert any((a != b).any() for a, b in zip(start, model.parameters(), strict=True)), name

    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, out, _ = add(run_luigi, folder)
    assert (code, out.count("nothing to build")) == (0, 1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps
    code, out, _ = add(run_luigi, folder, "--profile", "spice", "--scheme", "ud1-basic")
    assert code == 0
    new = features.open_store(folder)
    assert sorted(new.manifest["groups"]) == [
        *("index", "regions", "text", "tokens", "tokens@ud", "visual")
    ]
    assert new.manifest["groups"]["tokens@ud"] == store.manifest["groups"]["tokens"]
    assert new.text(new.captions["id"].iloc[0]).scheme == "ud1-basic"


def test_equal_captions_share_parses(tmp_path, names, data, run_luigi):
    """An import into the folder of a build reuses its parses and triplets."""
    options = {"--captions": data["--captions"], "--store-dir": data["--store-dir"]}
    assert run_luigi("BuildDataset", options, "--detector", "none", "--jobs", "1")[0] == 0
    built = features.open_store(data["--store-dir"])
    code, out, _ = add(run_luigi, data["--store-dir"])
    assert (code, out.count("nothing to build")) == (0, 1)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("st/t*-*/*")}
    assert len(stamps) == 6  # tokens and text: shard, sidecar, manifest
    import_boxes(tmp_path, names, ["--captions", str(data["--captions"])])
    assert not features.open_store(data["--store-dir"]).has("role")
    assert add(run_luigi, data["--store-dir"])[0] == 0
    store = features.open_store(data["--store-dir"])
    for name in ("tokens", "text"):
        assert store.manifest["groups"][name] == built.manifest["groups"][name]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert store.has("object_features")


@pytest.mark.slow
def test_a_stopped_run_is_resumed(tmp_path, run_luigi):
    folder = import_scan(tmp_path, images=70)  # 140 images: three shards
    assert add(run_luigi, folder)[0] == 0
    first = features.open_store(folder)
    parses = folder / first.manifest["groups"]["tokens"]["folder"]
    text = folder / first.manifest["groups"]["text"]["folder"]
    stamps = {path: path.stat().st_mtime_ns for path in parses.glob("*.h5")}
    for path in (text / "manifest.json", text / "00001.h5", text / "00001.json"):
        path.unlink()
    (parses / "manifest.json").unlink()
    assert add(run_luigi, folder)[0] == 0
    assert features.open_store(folder).hash == first.hash
    assert {path: path.stat().st_mtime_ns for path in parses.glob("*.h5")} == stamps


def test_a_lost_parse_is_rebuilt(tmp_path, run_luigi):
    folder = import_scan(tmp_path, images=2)
    assert add(run_luigi, folder)[0] == 0
    hash_before = features.open_store(folder).hash
    next(folder.glob("tokens-*/00000.h5")).unlink()
    assert add(run_luigi, folder)[0] == 0
    assert features.open_store(folder).hash == hash_before
    assert verify_store(folder) == []


def test_captions_with_unpaired_surrogates_get_text(tmp_path, run_luigi):
    """JSON may contain an unpaired surrogate; the store keeps it."""
    captions = (features.Caption("0", "A red \ud83d ball lies on grass ."),)
    entries = [features.ImageEntry("a.jpg", "a.jpg", "train", captions)]
    path = features.build_store(tmp_path / "st", "odd", entries)
    code, _, err = add(run_luigi, path.parent)
    assert (code, err.count("error:")) == (0, 0)
    graph = features.open_store(path.parent).text("0")
    assert graph.caption == captions[0].text
    assert "ball" in graph.objects


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parser", "spaci"], "unknown parser 'spaci'. Did you mean 'spacy'?"),
        (["--profile", "spices"], "unknown profile 'spices'. Did you mean 'spice'?"),
        (["--scheme", "ud3"], "unknown scheme 'ud3'"),
        (["--store-dir", "nowhere"], "nowhere: no such store"),
        (["captions"], "this store has no captions"),
        (["folder"], "cannot be written"),
    ],
)
def test_an_error_is_one_line_and_changes_nothing(tmp_path, run_luigi, names, words, message):
    if words == ["captions"]:
        words, folder = [], import_boxes(tmp_path, names, [])
    else:
        folder = import_scan(tmp_path, images=1)
    if words == ["folder"]:  # a file is where the folder of the parses should be
        manifest = store_manifest_path(folder)
        plan = stored_text_plan(TextOptions(store_dir=str(manifest)))
        plan.parses.folder.write_text("")
        words = []
    before = {path: path.read_bytes() for path in Path(folder).glob("*.json")}
    code, out, err = add(run_luigi, folder, *words)
    assert code == 30
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    assert message in lines[0]
    assert "Traceback" not in err
    assert "captions:" not in out
    assert {path: path.read_bytes() for path in Path(folder).glob("*.json")} == before
    json.loads((folder / "latest.json").read_text())
