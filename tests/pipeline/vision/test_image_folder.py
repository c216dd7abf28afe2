"""Finding image files, and messages about missing ones."""

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
