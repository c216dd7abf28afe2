"""Finding image files, and messages about missing ones."""

import os

import pytest

from features.errors import InputError, MissingInput
from features.records import ImageEntry
from pipeline.vision.image_folder import ImageFolder, describe_missing, keep_available


def entry(file):
    return ImageEntry(file.rsplit("/", 1)[-1], file, "train")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val2014").mkdir()
    (tmp_path / "plain.jpg").touch()
    (tmp_path / "val2014" / "deep.jpg").touch()
    (tmp_path / "名前 with space.jpg").touch()
    return tmp_path


def test_files_are_found_in_the_folder_and_one_below(folder):
    images = ImageFolder(folder)
    assert images.find(entry("plain.jpg")) == "plain.jpg"
    assert images.find(entry("val2014/deep.jpg")) == "val2014/deep.jpg"
    assert images.find(entry("deep.jpg")) == "val2014/deep.jpg"
    assert images.find(entry("val2014/plain.jpg")) == "plain.jpg"
    assert images.find(entry("名前 with space.jpg")) is not None
    assert images.find(entry("other.jpg")) is None


def test_missing_images_fail_or_are_named_once(folder):
    entries = [entry("plain.jpg"), *(entry(f"{k}.jpg") for k in range(1_000))]
    with pytest.raises(
        InputError, match=r"1,000 images .* 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, \.\.\."
    ):
        keep_available(entries, ImageFolder(folder), on_error="fail")
    kept, missing = keep_available(entries, ImageFolder(folder), on_error="skip")
    assert [e.id for e in kept] == ["plain.jpg"]
    assert len(missing) == 1_000
    assert len(describe_missing(missing)) < 200


def test_no_image_at_all_is_an_error_even_when_skipping(folder):
    with pytest.raises(InputError, match="none of the 1 images"):
        keep_available([entry("x.jpg")], ImageFolder(folder), on_error="skip")
    with pytest.raises(MissingInput, match="Check --images-dir"):
        ImageFolder(folder / "nowhere")


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return ImageFolder(root)


def test_another_folder_is_another_picture(tmp_path):
    images = files(tmp_path, "train/1.jpg", "val/2.jpg", "cats/x/9.jpg", "loose.jpg")
    assert images.find(entry("val/1.jpg")) is None
    assert images.find(entry("dogs/x1/9.jpg")) is None
    assert images.find(entry("1.jpg")) == "train/1.jpg"  # its folder is unknown
    assert images.find(entry("val/loose.jpg")) == "loose.jpg"
    assert images.find(entry("data/val/2.jpg")) == "val/2.jpg"
    coco = files(tmp_path / "coco", "images/COCO_val2014_000000391895.jpg")
    assert coco.find(entry("val2014/COCO_val2014_000000391895.jpg")) is not None


def test_two_files_that_fit_are_an_error_and_an_exact_one_is_not(tmp_path):
    images = files(tmp_path, "cats/1.jpg", "dogs/1.jpg", "a/2.jpg", "a/2.JPG", "3.jpg", "b/3.jpg")
    with pytest.raises(InputError, match=r"'1\.jpg' can be 'cats/1\.jpg' or 'dogs/1\.jpg'"):
        images.find(entry("1.jpg"))
    assert images.find(entry("dogs/1.jpg")) == "dogs/1.jpg"
    assert images.find(entry("2.JPG")) == "a/2.JPG"
    assert images.find(entry("3.jpg")) == "3.jpg"
    with pytest.raises(InputError, match="can be"):
        keep_available([entry("1.jpg"), entry("3.jpg")], images, on_error="fail")
    kept, missing = keep_available([entry("1.jpg"), entry("3.jpg")], images, on_error="skip")
    assert ([e.file for e in kept], missing) == (["3.jpg"], ["1.jpg"])


def test_names_may_differ_in_form_and_case(tmp_path):
    images = files(tmp_path, "cafe\u0301.jpg", "B.JPG", "n/Stra\u00dfe.PNG", "7.webp", "8.png")
    assert images.find(entry("caf\u00e9.jpg")) == "cafe\u0301.jpg"
    assert images.find(entry("b.jpg")) == "B.JPG"
    assert images.find(entry("stra\u00dfe.png")) == "n/Stra\u00dfe.PNG"
    assert images.find(entry("7")) == "7.webp"
    assert images.find(entry("8.jpg")) is None


def test_hidden_files_and_loops_of_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    for name in ("4.jpg", "5.jpg"):  # to itself, and to nothing
        (tmp_path / name).symlink_to(tmp_path / name.replace("5", "6"))
    os.mkfifo(tmp_path / "7.jpg")
    images = files(tmp_path, "a/b/c/d/1.jpg", "a/._2.jpg", ".trash/3.jpg")
    assert len(images) == 1
    assert images.find(entry("1.jpg")) == "a/b/c/d/1.jpg"
    assert images.find(entry("._2.jpg")) is None


def test_one_file_is_one_image(tmp_path):
    images = files(tmp_path, "x/1.jpg")
    with pytest.raises(InputError, match=r"x/1\.jpg is the file of two images, '1\.jpg' and '1'"):
        keep_available([entry("x/1.jpg"), ImageEntry("1", "1", "train")], images, on_error="fail")
