"""Readers of array files: SCAN and GSMN folders, HDF5 of BAN, folders of npz."""

import io
import pickle
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.convert.readers.ban import BanFile
from features.convert.readers.npz_folder import NpzFolder
from features.convert.readers.scan import ScanData
from features.errors import (
    InputError,
    MissingInput,
)

D = 8


def image(seed: int, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (n, 4)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    return boxes, rng.normal(size=(n, D)).astype(np.float32)


class Runs:
    """A pickle that creates a file if it is loaded by the standard unpickler."""

    mark = Path(tempfile.mkdtemp()) / "ran"

    def __reduce__(self):
        return Path.touch, (self.mark,)


def scan(folder: Path, split: str, images: int, copies: int, *, gsmn: bool = False) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(images)
    features = rng.normal(size=(images, 4, D)).astype(np.float32)
    np.save(folder / f"{split}_ims.npy", np.repeat(features, copies, axis=0))
    captions = [f"caption {n} of {i} \u00e9" for i in range(images) for n in range(5)]
    (folder / f"{split}_caps.txt").write_bytes("".join(f"{c}\n" for c in captions).encode())
    (folder / f"{split}_ids.txt").write_text("".join(f"{split}{i}\n" for i in range(images)))
    if gsmn:
        boxes = np.stack([image(i, 4)[0] for i in range(images)])
        np.save(folder / f"{split}_ims_bbx.npy", np.repeat(boxes, copies, axis=0))
        sizes = np.empty(images * copies, object)
        for row in range(images * copies):
            sizes[row] = {"image_h": 100 + row // copies, "image_w": 200}
        np.save(folder / f"{split}_ims_size.npy", sizes, allow_pickle=True)
    return features


@pytest.mark.parametrize("copies", [1, 5])
def test_scan(tmp_path, copies):
    features = scan(tmp_path / "p", "dev", 6, copies, gsmn=True)
    source = ScanData(tmp_path / "p")
    assert source.ids() == [f"dev{i}" for i in range(6)]
    for row in (0, 5, 2):
        found = source.read(f"dev{row}")
        np.testing.assert_array_equal(found.features, features[row])
        np.testing.assert_array_equal(found.boxes, image(row, 4)[0])
        assert found.size == (200, 100 + row)
    entry = source.images()[2]
    assert (entry.id, entry.split) == ("dev2", "val")
    assert [c.text for c in entry.captions] == [f"caption {n} of 2 \u00e9" for n in range(5)]


def test_scan_splits(tmp_path):
    folder = tmp_path / "p"
    for split, images in (("testall", 3), ("train", 4), ("test", 1), ("dev", 2)):
        scan(folder, split, images, 1 if split == "train" else 5)
    source = ScanData(folder)
    assert len(source.ids()) == 9  # test is part of testall
    assert [e.split for e in source.images()] == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    for split in ("train", "dev", "testall"):
        n = len((folder / f"{split}_ids.txt").read_text().split())
        (folder / f"{split}_ids.txt").write_text("".join(f"{i}\n" for i in range(n)))
    source = ScanData(folder)
    assert source.ids()[:5] == ["train-0", "train-1", "train-2", "train-3", "dev-0"]
    assert any("share ids" in note for note in source.notes)
    assert not source.read("dev-1").boxes.any()


def test_scan_ids_per_caption_or_none(tmp_path):
    scan(tmp_path, "train", 3, 1)
    (tmp_path / "train_ids.txt").write_text("".join(f"{i}\n" * 5 for i in "abc"))
    assert ScanData(tmp_path).ids() == ["a", "b", "c"]
    (tmp_path / "train_ids.txt").unlink()
    assert ScanData(tmp_path).ids() == ["train-0", "train-1", "train-2"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("caps.txt", b"one\n" * 14),
        ("caps.txt", b"one\n" * 20),
        ("caps.txt", b"\xff\xfe\n" * 15),
        ("caps.txt", b""),
        ("ids.txt", b"a\nb\n"),
        ("ids.txt", b"a\nb\na\n"),
        ("ims_bbx.npy", np.zeros((3, 4, 3), np.float32)),
        ("ims_bbx.npy", np.zeros((2, 4, 4), np.float32)),
        ("ims_size.npy", np.zeros((4,))),
        ("ims.npy", np.zeros((3, 4), np.float32)),
        ("ims.npy", np.zeros((3, 4, D), np.int64)),
    ],
)
def test_scan_hostile(tmp_path, name, data):
    scan(tmp_path, "train", 3, 1, gsmn=True)
    path = tmp_path / f"train_{name}"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        np.save(path, data)
    with pytest.raises(InputError):
        ScanData(tmp_path)


def test_scan_sizes_that_are_not_sizes(tmp_path):
    scan(tmp_path, "train", 3, 1, gsmn=True)
    for entry in ({"image_h": 3}, [3, 4], {"image_h": "x", "image_w": 3}):
        sizes = np.empty(3, object)
        sizes[:] = [entry] * 3
        np.save(tmp_path / "train_ims_size.npy", sizes, allow_pickle=True)
        with pytest.raises(InputError):
            ScanData(tmp_path).read("train0")
    with pytest.raises(MissingInput, match=r"no \*_ims\.npy"):
        ScanData(tmp_path / ".." / tmp_path.name / "..")


def ban(folder: Path, *, adaptive: bool, **change: object) -> Path:
    path = folder / "val36.hdf5"
    counts = [3, 3, 3] if not adaptive else [2, 0, 4]
    parts = [image(at, n) for at, n in enumerate(counts)]
    join = np.concatenate if adaptive else np.stack
    data = {"image_bb": join([p[0] for p in parts]), "image_features": join([p[1] for p in parts])}
    if adaptive:
        ends = np.cumsum([0, *counts])
        data["pos_boxes"] = np.stack([ends[:-1], ends[1:]], 1)
    with h5py.File(path, "w") as file:
        for name, values in {**data, **change}.items():
            file[name] = values
    table = {10: 2, 20: 0, 30: 1}
    path.with_name("val36_imgid2idx.pkl").write_bytes(pickle.dumps(table, protocol=2))
    return path


@pytest.mark.parametrize("adaptive", [False, True])
def test_ban(tmp_path, adaptive):
    source = BanFile(ban(tmp_path, adaptive=adaptive))
    assert source.ids() == ["20", "30", "10"]
    for key, row in (("10", 2), ("20", 0), ("30", 1)):
        boxes, features = image(row, [2, 0, 4][row] if adaptive else 3)
        found = source.read(key)
        np.testing.assert_array_equal(found.boxes, boxes)
        np.testing.assert_array_equal(found.features, features)


def test_ban_hostile(tmp_path):
    source = BanFile(ban(tmp_path, adaptive=True, pos_boxes=np.array([[0, 2], [2, 99], [3, 1]])))
    for key in ("30", "10"):
        with pytest.raises(InputError, match="pos_boxes"):
            source.read(key)
    source.close()
    with pytest.raises(InputError, match="does not fit"):
        BanFile(ban(tmp_path, adaptive=False, image_bb=np.zeros((2, 3, 4))))
    with pytest.raises(InputError, match="is a link"):
        BanFile(ban(tmp_path, adaptive=False, image_bb=h5py.ExternalLink("/etc/passwd", "x")))
    with pytest.raises(InputError, match="no dataset"):
        BanFile(ban(tmp_path, adaptive=False, image_features=np.zeros(3)))
    path = ban(tmp_path, adaptive=False)
    with h5py.File(path, "r+") as file:
        del file["image_features"]
        file.create_dataset("image_features", (3, 1 << 20, 1 << 10), "f4")  # takes no space
    with pytest.raises(InputError, match="too large"):
        BanFile(path)
    path = ban(tmp_path, adaptive=False)
    table = path.with_name("val36_imgid2idx.pkl")
    for bad in ({1: 9}, {1: 0, 2: 0}, {1: -1}, [1], {1: "x"}, Runs()):
        table.write_bytes(pickle.dumps(bad))
        with pytest.raises(InputError):
            BanFile(path)
    table.unlink()
    with pytest.raises(MissingInput, match="imgid2idx"):
        BanFile(path)
    path.write_bytes(path.read_bytes()[:200])
    table.write_bytes(pickle.dumps({1: 0}))
    with pytest.raises(InputError, match="HDF5"):
        BanFile(path)


def test_npz_folders(tmp_path):
    att, box, milvlg, mmf = (tmp_path / n for n in ("x_att", "x_box", "milvlg", "mmf"))
    for folder in (att, box, milvlg, mmf):
        folder.mkdir()
    boxes, features = image(1)
    np.savez_compressed(att / "9.npz", feat=features)
    np.save(box / "9.npy", boxes)
    extra = {"bbox": boxes, "num_bbox": 3, "image_h": 150, "image_w": 200, "info": {"a": 1}}
    np.savez(milvlg / "9.npz", x=features.T, **extra)
    np.save(mmf / "9.npy", features)
    info = {"bbox": boxes, "num_boxes": 3, "image_width": 200, "image_height": 150}
    np.save(mmf / "9_info.npy", info, allow_pickle=True)
    for folder in (att, milvlg, mmf):
        source = NpzFolder(folder)
        assert source.ids() == ["9"]
        found = source.read("9")
        np.testing.assert_array_equal(found.features, features)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.size == ((0, 0) if folder == att else (200, 150))


def test_npz_hostile(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no \.npz"):
        NpzFolder(folder)
    boxes, features = image(1)
    evil = np.empty(1, object)
    evil[0] = Runs()
    np.savez(folder / "pickle.npz", feat=evil)
    np.savez(folder / "count.npz", feat=features, num_bbox=7)
    np.savez(folder / "boxes.npz", feat=features, bbox=boxes[:2])
    np.savez(folder / "none.npz", other=features)
    np.savez(folder / "many.npz", feat=features, num_bbox=[1, 2])
    whole = (folder / "none.npz").read_bytes()
    (folder / "torn.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npz").write_bytes(b"hello")
    (folder / "zero.npz").write_bytes(b"")
    source = NpzFolder(folder)
    assert len(source.ids()) == 8
    for key in source.ids():
        with pytest.raises(InputError, match=key):
            source.read(key)
    assert not Runs.mark.exists()


def test_npz_that_unpacks_to_too_much(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "1.npz", feat=np.zeros((100, 1000), np.float32))
    assert (tmp_path / "1.npz").stat().st_size < 2000
    monkeypatch.setattr("features.convert.readers.npz_folder._MAX_BYTES", 300_000)
    with pytest.raises(InputError, match="unpacks to more"):
        NpzFolder(tmp_path).read("1")


def test_npz_with_rows_without_a_score(tmp_path):
    boxes, features = image(1)
    np.save(tmp_path / "9.npy", features)
    info = {"bbox": boxes, "num_boxes": 2, "image_width": 200, "image_height": 150}
    np.save(tmp_path / "9_info.npy", info, allow_pickle=True)
    found = NpzFolder(tmp_path).read("9")
    np.testing.assert_array_equal(found.boxes, boxes[:2])
    np.testing.assert_array_equal(found.features, features[:2])


def test_npz_info_with_nested_lists(tmp_path):
    """Twelve levels of one list repeated ten times: 200 bytes, a terabyte as an array."""
    nested: object = [1.0] * 10
    for _ in range(12):
        nested = [nested] * 10
    np.save(tmp_path / "9.npy", image(1)[1])
    np.save(tmp_path / "9_info.npy", {"bbox": nested}, allow_pickle=True)
    with pytest.raises(InputError, match="not an array"):
        NpzFolder(tmp_path).read("9")


def test_npz_in_this_folder(tmp_path, monkeypatch):
    boxes, features = image(1)
    att = tmp_path / "x_att"
    for name in ("x_att", "x_box"):
        (tmp_path / name).mkdir()
    np.savez(att / "1.npz", feat=features)
    np.save(tmp_path / "x_box" / "1.npy", boxes)
    monkeypatch.chdir(att)
    np.testing.assert_array_equal(NpzFolder(".").read("1").boxes, boxes)


def test_npz_that_cannot_be_unpacked(tmp_path):
    np.savez(tmp_path / "locked.npz", x=image(1)[1])
    raw = bytearray((tmp_path / "locked.npz").read_bytes())
    raw[6] |= 1  # the headers of the file and the archive say it is encrypted
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.npz").write_bytes(raw)
    whole = io.BytesIO()
    np.save(whole, np.zeros(9_000))
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", whole.getvalue())
    raw = bytearray((tmp_path / "lzma.npz").read_bytes())
    raw[60:90] = b"\xff" * 30
    (tmp_path / "lzma.npz").write_bytes(raw)
    for key in ("locked", "lzma"):
        with pytest.raises(InputError, match=rf"{key}\.npz: not a complete"):
            NpzFolder(tmp_path).read(key)


def test_ban_reads_single_rows(tmp_path):
    """A dataset is never read whole: its stated length may have no bytes behind it."""
    path = ban(tmp_path, adaptive=True)
    with h5py.File(path, "r+") as file:
        first = file["pos_boxes"][:]
        del file["pos_boxes"]
        rows = file.create_dataset("pos_boxes", (1 << 26, 2), "i8", chunks=(1 << 10, 2))
        rows[:3] = first
    tracemalloc.start()
    source = BanFile(path)
    np.testing.assert_array_equal(source.read("20").boxes, image(0, 2)[0])
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    source.close()
    with h5py.File(path, "r+") as file:
        del file["pos_boxes"]
        file.create_dataset("pos_boxes", (1 << 26, 2), "i8", chunks=(1 << 25, 2))
    with pytest.raises(InputError, match="has chunks"):
        BanFile(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ims_bbx.npy", np.full((3, 4, 4), "x")),
        ("ims_bbx.npy", np.full((3, 4, 4), None)),
        ("ims_size.npy", np.zeros(3)),
        ("ims.npy", np.zeros((3, 4, 0), np.float32)),
    ],
)
def test_scan_arrays_of_another_kind(tmp_path, name, data):
    scan(tmp_path, "train", 3, 1, gsmn=True)
    np.save(tmp_path / f"train_{name}", data, allow_pickle=True)
    with pytest.raises(InputError, match=f"train_{name}"):
        ScanData(tmp_path)


def test_scan_from_windows_and_with_a_folder_of_photos(tmp_path):
    scan(tmp_path, "train", 3, 1)
    for name in ("train_ids.txt", "train_caps.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    (tmp_path / "train_images").mkdir()
    source = ScanData(tmp_path)
    assert source.ids()[0] == "train0"
    assert source.images()[0].captions[0].text == "caption 0 of 0 \u00e9"
    assert all(file.is_file() for file in source.files)
