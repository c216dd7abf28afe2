"""Photos inside tars: found, hashed, decoded and checked like files."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from features.errors import ImageError, MissingInput, UnreadableImage
from features.format import HashCache, hash_file
from features.records import ImageEntry
from features.tar_files import read_member, tar_members
from pipeline.vision.image_folder import ImageFolder
from pipeline.vision.images import LazyImage, read_image, read_size


def photo(colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    names = {"1.png": photo("red"), "sub/2.png": photo("blue"), "3.png": b"no photo"}
    names |= {"._1.png": b"x", "../4.png": b"x", "/5.png": b"x"}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, raw in names.items():
            about = tarfile.TarInfo(name)
            about.size = len(raw)
            archive.addfile(about, io.BytesIO(raw))
        link = tarfile.TarInfo("6.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return tmp_path


def test_members_are_files_of_a_folder(folder):
    assert tar_members(folder / "0.tar") == ["1.png", "sub/2.png", "3.png"]
    images = ImageFolder(folder)
    assert images.find(ImageEntry("x", "0.tar/1.png", "train")) == "0.tar/1.png"
    assert images.find(ImageEntry("x", "2.png", "train")) == "0.tar/sub/2.png"
    assert images.find(ImageEntry("x", "6.png", "train")) is None
    (folder / "1.tar").write_bytes(b"no tar")
    assert tar_members(folder / "1.tar") == []


def test_members_are_decoded_and_hashed(folder):
    path = folder / "0.tar" / "sub" / "2.png"
    assert read_size(path) == (8, 6)
    assert np.array_equal(read_image(path)[0, 0], [0, 0, 255])
    digest = hashlib.sha256(photo("blue")).hexdigest()
    assert hash_file(path) == digest
    cache = HashCache(folder / "hashes.json")
    assert cache.files([path]) == HashCache(folder / "hashes.json").files([path]) == [digest]
    image = LazyImage.open("2", path, digest[:32])
    assert image.size == (8, 6)
    with pytest.raises(UnreadableImage, match="has changed"):
        LazyImage.open("1", folder / "0.tar" / "1.png", digest[:32])
    with pytest.raises(ImageError, match="not an image"):
        read_image(folder / "0.tar" / "3.png")


def test_members_that_are_missing(folder):
    gone = folder / "0.tar" / "9.png"
    with pytest.raises(UnreadableImage, match=r"9\.png"):
        read_image(gone)
    with pytest.raises(MissingInput):
        hash_file(gone)
    with pytest.raises(FileNotFoundError):
        read_member(gone)
    assert read_member(folder / "1.png") is None
