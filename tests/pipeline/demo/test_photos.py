"""The public-domain photos of the demo."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from features.errors import InputError, MissingDependency
from pipeline.demo.photos import PHOTOS, write_photos


def test_photos_come_with_five_captions_each(tmp_path):
    pytest.importorskip("skimage", reason="scikit-image is a development extra")
    write_photos(tmp_path)
    document = json.loads((tmp_path / "dataset_photos.json").read_text())
    assert len(document["images"]) == len(PHOTOS) == 6
    for image in document["images"]:
        assert len({sentence["raw"] for sentence in image["sentences"]}) == 5
        with Image.open(tmp_path / "images" / image["filename"]) as image:
            assert image.mode == "RGB"
            assert min(image.size) >= 300


def test_missing_scikit_image_has_an_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependency, match=r"pip install 'scikit-image>=0.24'"):
        write_photos(tmp_path)


def test_a_missing_photo(tmp_path, monkeypatch):
    skimage = pytest.importorskip("skimage", reason="scikit-image is a development extra")
    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match=r"astronaut\.png: missing in this release"):
        write_photos(tmp_path / "out")
