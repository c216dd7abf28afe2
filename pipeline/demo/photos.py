"""Public-domain photos from scikit-image, with our captions.

They are part of scikit-image's wheel, so nothing is downloaded; its documentation states for each
that no copyright restrictions are known (public domain or CC0).
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

from features.errors import InputError, MissingDependency

__all__ = ["PHOTOS", "write_photos"]

PHOTOS: dict[str, tuple[str, ...]] = {
    "astronaut.png": (
        "A smiling astronaut wearing an orange space suit stands in front of a flag.",
        "A woman with short brown hair is posing beside a model of a space shuttle.",
        "An astronaut in an orange suit smiles at the camera.",
        "The portrait shows a woman who wears a bright orange suit with blue patches.",
        "A white helmet is held by a woman in an orange space suit.",
    ),
    "camera.png": (
        "A man in a dark coat is looking through a camera on a tripod.",
        "A photographer stands on a lawn in front of tall buildings.",
        "A camera on three thin legs is used by a man with black gloves.",
        "A black and white photo of a man who is filming in a park.",
        "There is a man with a camera on the grass.",
    ),
    "chelsea.png": (
        "A close view of a tabby cat with green eyes.",
        "A striped brown cat looks to the side of the camera.",
        "There is a cat with a pink nose and long white whiskers.",
        "The face of a cat that has dark stripes on its forehead.",
        "A cat with pointed ears is seen in front of a blurred background.",
    ),
    "coffee.png": (
        "A cup of espresso stands on a saucer beside a small spoon.",
        "A red saucer with a red cup of coffee on a wooden table.",
        "A metal spoon lies on a saucer next to a cup.",
        "Hot coffee is served in a small cup on a brown table.",
        "A cup filled with coffee is standing on a table.",
    ),
    "horse.png": (
        "A black silhouette of a horse on a white background.",
        "The shadow of a standing horse with a long tail.",
        "A black horse stands on four legs in front of a white wall.",
        "There is a dark horse which is seen from the side.",
        "A image of a horse that is completely black.",
    ),
    "rocket.jpg": (
        "A white rocket stands between tall metal towers.",
        "A rocket on a launch pad is lit by bright lamps.",
        "There is a tall white rocket under a dark blue sky.",
        "A rocket that is ready for its launch stands on a pad at night.",
        "Bright lights shine below a rocket and four thin towers.",
    ),
}


def write_photos(folder: Path) -> None:
    """Write the photos and their captions in Karpathy's schema.

    Writes ``images/<name>.jpg`` and ``dataset_photos.json``; all photos are in the split ``test``.

    Args:
        folder: folder to write to; created if missing.

    Raises:
        MissingDependency: scikit-image is not installed.
        InputError: the installed release of scikit-image lacks one of the photos.
    """
    from PIL import Image

    try:
        skimage = importlib.import_module("skimage")
    except ImportError as error:
        command = "pip install 'scikit-image>=0.24'"
        raise MissingDependency.of("scikit-image", "the demo's photos", command) from error
    source = Path(str(skimage.__file__)).parent / "data"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (file, captions) in enumerate(PHOTOS.items()):
        if not (source / file).is_file():
            raise InputError(
                f"{source / file}: missing in this release of scikit-image. Install scikit-image "
                "0.24 or newer from its wheel."
            )
        name = Path(file).stem + ".jpg"
        with Image.open(source / file) as image:
            image.convert("RGB").save(folder / "images" / name, quality=92)
        sentences = [
            {
                "raw": caption,
                "tokens": re.findall(r"[a-z]+", caption.lower()),
                "imgid": number,
                "sentid": 5 * number + i,
            }
            for i, caption in enumerate(captions)
        ]
        entries.append(
            {
                "filename": name,
                "imgid": number,
                "split": "test",
                "sentids": [sentence["sentid"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    text = json.dumps({"dataset": "photos", "images": entries}, separators=(",", ":"))
    (folder / "dataset_photos.json").write_text(text + "\n")
