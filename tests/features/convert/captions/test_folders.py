"""Captions in folders: photos with texts beside them, img2dataset, tars, tables called metadata."""

import io
import json
import tarfile

import pytest

from features.convert.captions import read_captions
from features.errors import InputError, MissingInput
from features.tar_files import tar_members


def files(root, **contents):
    """Write files; ``__`` in a name is a folder and ``_`` the dot of its suffix."""
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def plain(found):
    return [(e.id, e.split, [c.text for c in e.captions]) for e in found.entries]


def test_photos_with_texts_beside_them(tmp_path):
    files(
        tmp_path,
        **{
            "1.jpg": "",
            "1.txt": "A dog .\n\nTwo dogs .\n",
            "train__cats__2.PNG": "",
            "train__cats__2.txt": "\ufeffA cat .",
            "validation__3.webp": "",
            "validation__3.caption": "A cow .",
            ".hidden__4.jpg": "",
            "._1.txt": "binary",
            "README.txt": "about these photos",
        },
    )
    found = read_captions(tmp_path)
    assert plain(found) == [
        ("1.jpg", "unsplit", ["A dog .", "Two dogs ."]),
        ("train/cats/2.PNG", "train", ["A cat ."]),
        ("validation/3.webp", "val", ["A cow ."]),
    ]
    assert found.dropped == (("README.txt", "no photo beside it"),)
    assert [c.id for c in found.entries[0].captions] == ["1.jpg#0", "1.jpg#1"]


def test_control_characters_do_not_end_a_caption(tmp_path):
    text = "A dog\x0b runs .\r\nTwo\u2028dogs\x85 sit .\rA cat .\n"
    found = read_captions(files(tmp_path, **{"1.jpg": "", "1.txt": text}))
    assert plain(found) == [("1.jpg", "unsplit", ["A dog runs .", "Two dogs sit .", "A cat ."])]


BAD = {
    "no text": ({"9.jpg": ""}, "no captions beside it"),
    "an empty text": ({"9.jpg": "", "9.txt": " \n"}, ""),
    "binary": ({"9.jpg": "", "9.txt": b"\xff\xfe\x00"}, "not UTF-8"),
    "two photos": ({"9.jpg": "", "9.png": "", "9.txt": "A dog ."}, "have the same captions file"),
    "null": ({"9.jpg": "", "9.json": '{"caption": null}'}, "not text"),
    "NaN": ({"9.jpg": "", "9.json": '{"caption": NaN}'}, "NaN"),
    "no JSON": ({"9.jpg": "", "9.json": "{"}, "not usable JSON"),
    "the word nan": ({"9.jpg": "", "9.txt": "nan"}, "the word 'nan'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_photos_of_a_folder(tmp_path, name):
    contents, reason = BAD[name]
    files(tmp_path, **{"a.jpg": "", "a.txt": "A dog ."}, **contents)
    if not reason:  # like an image without captions in any other layout
        assert plain(read_captions(tmp_path))[0] == ("9.jpg", "unsplit", [])
        return
    with pytest.raises(InputError, match="--on-error skip") as caught:
        read_captions(tmp_path)
    assert reason in str(caught.value)
    found = read_captions(tmp_path, on_error="skip")
    assert found.n_dropped == 1
    assert ("a.jpg", "unsplit", ["A dog ."]) in plain(found)


def sample(key, caption, **more):
    return {
        f"{key}.jpg": b"",
        f"{key}.txt": caption.encode(),
        f"{key}.json": json.dumps({"key": key, "caption": caption, "status": "success"}).encode(),
        **more,
    }


SAMPLES = {**sample("000000001", "A dog ."), **sample("000000002", "A cat .")}


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, raw in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(raw)
            archive.addfile(about, io.BytesIO(raw))
    return path


def test_img2dataset_as_folders_and_as_tars(tmp_path):
    folder = files(tmp_path / "folder", **{f"00000__{k}": v for k, v in SAMPLES.items()})
    files(folder, **{"00000.parquet": b"PAR1", "00000_stats.json": "{}"})
    assert plain(read_captions(folder)) == [
        ("00000/000000001.jpg", "unsplit", ["A dog ."]),
        ("00000/000000002.jpg", "unsplit", ["A cat ."]),
    ]
    tars = files(tmp_path / "tars", **{"00000.parquet": b"PAR1", "00000_stats.json": "{}"})
    tar(tars / "00000.tar", SAMPLES)
    tar(tars / "00001.tar", {"000010000.png": b"", "000010000.json": b'{"caption": "A cow ."}'})
    assert plain(read_captions(tars)) == [
        ("00000.tar/000000001.jpg", "unsplit", ["A dog ."]),
        ("00000.tar/000000002.jpg", "unsplit", ["A cat ."]),
        ("00001.tar/000010000.png", "unsplit", ["A cow ."]),
    ]
    assert plain(read_captions(tars / "00000.tar"))[0][0] == "00000.tar/000000001.jpg"
    assert read_captions(tars, split_by="1/1").entries[0].split in ("train", "test")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"9.jpg": b""}, "no captions of this name"),
        ({"9.jpg": b"", "9.txt": b"\xff"}, "not UTF-8"),
        ({"9.jpg": b"", "9.txt": b"x" * (2 << 20)}, "too many for captions"),
        ({"../9.jpg": b"", "../9.txt": b"a"}, "leads out"),
        ({"9.jpg": b"", "9.json": b'{"caption": ["a"]}'}, "not text"),
        ({"9.jpg": b"", "9.png": b"", "9.txt": b"a"}, "has both 9.jpg and 9.png"),
    ],
)
def test_bad_samples_of_a_tar(tmp_path, members, reason):
    path = tar(tmp_path / "0.tar", {**SAMPLES, **members})
    with pytest.raises(InputError, match=r"0\.tar.*--on-error skip") as caught:
        read_captions(path)
    assert reason in str(caught.value)
    found = read_captions(path, on_error="skip")
    assert (len(found.entries), found.n_dropped) == (2, 1)


def test_two_photos_with_one_captions_file_are_both_left_out(tmp_path):
    folder = files(tmp_path / "f", **{"1.jpg": b"", "1.png": b"", "1.txt": "A dog .", **SAMPLES})
    with pytest.raises(InputError, match=r"1\.jpg and 1\.png have the same captions file"):
        read_captions(folder)
    found = read_captions(folder, on_error="skip")
    assert [entry.id for entry in found.entries] == ["000000001.jpg", "000000002.jpg"]


@pytest.mark.parametrize("cut", [0, 100, 400])
def test_a_tar_that_ends_between_two_members(tmp_path, cut):
    first, second = sample("1", "A dog ."), sample("2", "A cat .")
    whole = tar(tmp_path / "0.tar", {**first, **second}).read_bytes()
    at = whole.index(b"2.jpg")
    (tmp_path / "0.tar").write_bytes(whole[: at + cut])
    for policy in ("fail", "skip"):
        with pytest.raises(InputError, match=r"0\.tar: .*cut or damaged after 1\."):
            read_captions(tmp_path / "0.tar", on_error=policy)
    assert tar_members(tmp_path / "0.tar") == []
    torn = bytearray(whole)
    torn[at + 120] ^= 1  # another header than its checksum says: the rest would be ignored
    (tmp_path / "0.tar").write_bytes(torn)
    with pytest.raises(InputError, match="cut or damaged after 1"):
        read_captions(tmp_path / "0.tar", on_error="skip")


def test_torn_tars_and_links(tmp_path):
    path = tar(tmp_path / "0.tar", {**SAMPLES, **sample("9", "x" * 4000)})
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(InputError, match=r"0\.tar"):
        read_captions(path, on_error="skip")
    with tarfile.open(tmp_path / "1.tar", "w") as archive:
        for name in ("1.jpg", "1.txt"):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(about)
    with pytest.raises(InputError, match="no image with captions"):
        read_captions(tmp_path / "1.tar", on_error="skip")


def test_tables_called_metadata_name_files_of_their_folder(tmp_path):
    line = '{"file_name": "1.jpg", "text": "a dog"}\n'
    files(tmp_path, **{"train__metadata.jsonl": line, "test__metadata.jsonl": line})
    files(tmp_path, **{"other__metadata.csv": "file_name,text\nx/2.jpg,a cat\n"})
    assert plain(read_captions(tmp_path)) == [
        ("other/x/2.jpg", "unsplit", ["a cat"]),
        ("test/1.jpg", "test", ["a dog"]),
        ("train/1.jpg", "train", ["a dog"]),
    ]
    assert plain(read_captions(tmp_path / "train" / "metadata.jsonl"))[0][:2] == (
        "1.jpg",
        "unsplit",
    )


def test_a_folder_of_nothing_and_loops_of_links(tmp_path):
    with pytest.raises(MissingInput, match=r"docs/importing\.md lists the layouts"):
        read_captions(tmp_path)
    files(tmp_path, **{"a__1.jpg": "", "a__1.txt": "A dog ."})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert plain(read_captions(tmp_path)) == [("a/1.jpg", "unsplit", ["A dog ."])]
