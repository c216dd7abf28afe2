"""Public-domain photos from scikit-image, with our captions.

They are part of scikit-image's wheel, so nothing is downloaded; its documentation states for each
that no copyright restrictions are known (public domain or CC0).
"""

from __future__ import annotations

import importlib
from pathlib import Path

from features.decoding import FORMATS
from features.errors import InputError, MissingDependency
from pipeline.demo.dataset import read_tables, write_captions_file

PHOTOS: dict[str, list[str]] = read_tables("photos.json")  # file name -> captions


def write_photos(folder: Path) -> None:
    """Write the photos and their captions in Karpathy's schema.

    Writes ``images/<name>.jpg`` and ``dataset_photos.json``; all photos are in the split ``test``.

    Args:
        folder: folder to write to; created if missing.

    Raises:
        MissingDependency: scikit-image is not installed.
        InputError: the installed release of scikit-image lacks one of the photos.
    """
    from PIL import Image  # loads Pillow

    try:
        skimage = importlib.import_module("skimage")
    except ImportError as error:
        command = "pip install 'scikit-image>=0.24'"
        raise MissingDependency.of("scikit-image", "the demo's photos", command) from error
    source = Path(str(skimage.__file__)).parent / "data"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = []
    for file, captions in PHOTOS.items():
        if not (source / file).is_file():
            raise InputError(
                f"{source / file}: missing in this release of scikit-image. Install scikit-image "
                "0.24 or newer from its wheel."
            )
        name = Path(file).stem + ".jpg"
        with Image.open(source / file, formats=FORMATS) as image:
            image.convert("RGB").save(folder / "images" / name, quality=92)
        images.append((name, "test", captions))
    write_captions_file(folder / "dataset_photos.json", "photos", images)
