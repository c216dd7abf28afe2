"""Limits of imports: free space, distinct keys, kept notes, matching photos."""

import base64
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from features.convert import importing
from features.convert.importing import import_store
from features.convert.photos import Photos
from features.errors import InputError, MissingInput, UsageError, WriteError
from features.format.codec import MAX_WIDTH, pack_regions
from features.records import ImageEntry
from features.store import open_store

BOXES = np.float32([[0, 0, 40, 30], [5, 5, 60, 50]])


def code(values, dtype="<f4"):
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


def npz(folder, **images):
    """Write a folder of .npz files: name -> features."""
    folder.mkdir(exist_ok=True)
    for name, features in images.items():
        features = np.asarray(features, np.float32)
        n = len(features)
        np.savez(folder / f"{name}.npz", x=features, bbox=BOXES[:n], num_bbox=n)
    return folder


def disk(monkeypatch, free):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda _: usage(free, 0, free))


def test_the_same_file_as_another_extra_is_another_variant(tmp_path):
    row = ["42", "480", "640", code([1, 2], "<i8"), code([0.9, 0.8]), code([0, 1], "<i8")]
    row += [code([0.5, 0.4]), "2", code(BOXES), code(np.ones((2, 4)))]
    (tmp_path / "f.tsv").write_text("\t".join(row) + "\n")
    names = tmp_path / "names.txt"
    names.write_text("yolk\ngoal\ndog\n")
    graphs = []
    for extra in ("attributes", "objects"):
        report = import_store(
            "bottom-up-tsv", tmp_path / "f.tsv", tmp_path / "s", extras={extra: str(names)}
        )
        graphs.append(open_store(report.manifest).graph("42"))
    assert graphs[0].labels != graphs[1].labels == ("goal", "dog")
    assert graphs[0].attributes != graphs[1].attributes == ((), ())


def wide_tsv(path, width, empty):
    """Write one wide row and images without boxes, which are stored with that width."""
    first = f"0\t640\t480\t1\t{code(BOXES[:1])}\t{code(np.ones((1, width)))}\n"
    path.write_text(first + "".join(f"{n}\t640\t480\t0\t\t\n" for n in range(1, 1 + empty)))
    return path


def test_features_that_are_too_wide(tmp_path):
    source = wide_tsv(tmp_path / "a.tsv", MAX_WIDTH + 1, 3)
    with pytest.raises(InputError, match=r"'0' has object_features of width 65537; 1 to 65536"):
        import_store("bottom-up-tsv", source, tmp_path / "s")
    with pytest.raises(InputError, match="width 65537"):
        pack_regions([np.ones((1, MAX_WIDTH + 1))], [np.ones((0, 1))], 1, 1)
    source.write_text(source.read_text() + f"9\t640\t480\t1\t{code(BOXES[:1])}\t{code([1, 2])}\n")
    report = import_store("bottom-up-tsv", source, tmp_path / "s", on_error="skip")
    assert [image_id for image_id, _ in report.skipped] == ["0"]
    assert open_store(report.manifest).row_shape("object_features") == (36, 2)


def test_free_space_is_checked_before_the_first_shard(tmp_path, monkeypatch):
    source = wide_tsv(tmp_path / "a.tsv", 1000, 99)
    disk(monkeypatch, 7_000_000)
    with pytest.raises(WriteError, match=r"needs 7\.\d MB, the disk has 7\.0 MB free"):
        import_store("bottom-up-tsv", source, tmp_path / "s")
    assert not list((tmp_path / "s").glob("regions-*"))
    disk(monkeypatch, 8_000_000)
    report = import_store("bottom-up-tsv", source, tmp_path / "s")
    size = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*.h5"))
    assert 7_000_000 < size < 8_000_000  # the checked size is the needed size
    disk(monkeypatch, 0)
    assert import_store("bottom-up-tsv", source, tmp_path / "s").manifest == report.manifest


def captions(path, *files, split="train"):
    images = [
        {"filename": f, "split": split, "sentences": [{"raw": "a", "sentid": at}]}
        for at, f in enumerate(files)
    ]
    path.write_text(json.dumps({"images": images}))
    return path


def test_skip_continues_if_all_wanted_images_are_broken(tmp_path):
    source = npz(tmp_path / "n", a=np.full((2, 8), np.nan), b=np.ones((2, 8)))
    said = captions(tmp_path / "c.json", "a.jpg")
    report = import_store("npz", source, tmp_path / "s", captions=said, on_error="skip")
    assert [image_id for image_id, _ in report.skipped] == ["a.jpg"]
    for broken in ("a", "b"):  # the width comes from an image that can be read
        source = npz(tmp_path / broken, a=np.ones((1, 8)), b=np.ones((1, 8)))
        npz(source, **{broken: np.full((1, 8), np.nan)})
        report = import_store("npz", source, tmp_path / f"s{broken}", on_error="skip")
        assert [image_id for image_id, _ in report.skipped] == [broken]


def test_a_second_import_has_the_same_notes(tmp_path):
    source = npz(tmp_path / "n", **{f"{n}": np.ones((2, 4)) for n in range(70)})
    first = import_store("npz", source, tmp_path / "s", max_objects=1)
    assert any("70 images have more than 1 boxes" in note for note in first.notes)
    again = import_store("npz", source, tmp_path / "s", max_objects=1)
    assert again.notes == first.notes
    assert open_store(again.manifest).manifest["summary"]["notes"] == first.notes
    # an interrupted import has no notes yet; a note says that its images are not counted
    visual = next((tmp_path / "s").glob("visual-*"))
    (visual / "00001.json").unlink()
    first.manifest.unlink()
    notes = import_store("npz", source, tmp_path / "s", max_objects=1).notes
    assert any("6 images have more than 1 boxes" in note for note in notes)
    assert any("interrupted import" in note for note in notes)


def test_the_name_is_checked_before_anything_is_written(tmp_path):
    source = npz(tmp_path / "n", a=np.ones((2, 4)))
    with pytest.raises(UsageError, match="'my data': use letters"):
        import_store("npz", source, tmp_path / "s", name="my data")
    assert not (tmp_path / "s").exists()
    assert import_store("npz", source, tmp_path / "s", name="my.data@2-x_+").images == 1


def photos(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 48)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("key", "photo"),
    [
        ("391895", "391895.jpg"),
        ("a", "a.PNG"),
        ("391895", "COCO_val2014_000000391895.jpg"),
        ("COCO_val2014_000000391895", "000000391895.jpg"),
    ],
)
def test_photos_of_ids_without_a_suffix(tmp_path, key, photo):
    folder = photos(tmp_path / "photos", photo)
    source = npz(tmp_path / "n", **{key: np.ones((2, 4))})
    store = open_store(import_store("npz", source, tmp_path / "s", images_dir=folder).manifest)
    assert store.graph(key).size == (64, 48)
    other = photos(tmp_path / "photos", photo.rpartition(".")[0] + ".webp")
    with pytest.raises(InputError, match=rf"'{key}' matches .*webp"):
        import_store("npz", source, tmp_path / "s", images_dir=other)


def test_the_exact_name_of_a_photo_wins(tmp_path):
    folder = photos(tmp_path / "photos", "1.jpg", "1.png", "2.jpg")
    (folder / "3").mkdir()
    (folder / "sub").mkdir()
    shutil.copy(folder / "2.jpg", folder / "sub" / "4.jpg")
    find = Photos(folder).find
    assert find(ImageEntry("1.png", "", "x")).name == "1.png"  # the exact name wins
    assert find(ImageEntry("7", "2.jpg", "x")).name == "2.jpg"
    assert find(ImageEntry("4.jpg", "sub/4.jpg", "x")).parent.name == "sub"
    assert find(ImageEntry("2.jpg", "missing/2.jpg", "x")).name == "2.jpg"
    for key in ("3", "4", ""):
        with pytest.raises(MissingInput, match="no photo of"):
            find(ImageEntry(key, "", "x"))
    assert Photos(folder).stamp(ImageEntry("1", "", "x")) == ("1", -1)
