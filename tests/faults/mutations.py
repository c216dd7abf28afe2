"""Random changes of every kind of file that is read: none may crash the process or pass unseen.

``python -m tests.faults.mutations KIND FOLDER SEED COUNT`` changes the files of one kind ``COUNT``
times and reads them, in a process of its own: a crash there is the fault that is looked for. It
notes each change before it reads, so that a crash can be repeated.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from features.convert import open_source, read_captions
from features.errors import ScenestoreError
from tests.faults.table import REFUSED, case

AREA = "mutations"
ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("SCENESTORE_MUTATIONS", "2000"))  # of all kinds together
SECONDS = 60  # for one file
MEMORY = 4 << 30  # bytes of data
WORDS = [
    b"\0",
    b"\xff" * 4,
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b'"',
    b"[",
    b"\n",
    b"\t",
    b"\xed\xa0\x80",
]


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        make: writes whole files into a folder.
        read: reads them; returns what must not change unseen, None if nothing can tell.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]


def mutate(raw: bytes, draw: random.Random) -> bytes:
    """Return bytes with one to three random changes."""
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(data) + 1)
        size = min(draw.choice((1, 2, 4, 16, 300)), len(data) - at)
        how = draw.randrange(8)
        if how == 0 and data:
            data[at - 1] ^= 1 << draw.randrange(8)
        elif how == 1:
            data[at : at + size] = draw.randbytes(size)
        elif how == 2:
            data[at : at + size] = bytes([draw.choice((0, 255))]) * size
        elif how == 3:
            del data[at : at + size]
        elif how == 4:
            data[at:at] = draw.choice(WORDS)
        elif how == 5:
            data[at:at] = data[at : at + size]
        elif how == 6:
            number = draw.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            packed = number.to_bytes(8, draw.choice(("little", "big")))
            data[at : at + 8] = packed[: len(data) - at]
        else:
            del data[at:]
    return bytes(data)


NAMES = [f"{number}.jpg" for number in range(3)]
DRAW = np.random.default_rng(0)
BOXES = np.array([[0, 0, 9, 9], [5, 5, 30, 40]], np.float32)
FEATURES = DRAW.random((2, 16), np.float32)


def b64(array: Any) -> bytes:
    return base64.b64encode(array.tobytes())


def karpathy(folder: Path) -> None:
    images = [
        {"filename": name, "split": "train", "sentences": [{"raw": f"A dog {name}.", "sentid": at}]}
        for at, name in enumerate(NAMES)
    ]
    (folder / "f.json").write_text(json.dumps({"images": images}))


def coco(folder: Path) -> None:
    images = [{"id": at, "file_name": name} for at, name in enumerate(NAMES)]
    notes = [{"id": at, "image_id": at, "caption": "A dog."} for at in range(3)]
    (folder / "f.json").write_text(json.dumps({"images": images, "annotations": notes}))


def table(folder: Path) -> None:
    rows = [f'{name},"A dog, {at}.",train\r\n' for at, name in enumerate(NAMES)]
    (folder / "f.csv").write_text("".join(["image,caption,split\r\n", *rows]))


def tokens(folder: Path) -> None:
    (folder / "f.token").write_text("".join(f"{name}#0\tA dog.\n" for name in NAMES))


def tsv(folder: Path) -> None:
    lines = [b"%d\t64\t48\t2\t%s\t%s\n" % (at, b64(BOXES), b64(FEATURES)) for at in range(3)]
    (folder / "f.tsv").write_bytes(b"".join(lines))


def scan(folder: Path) -> None:
    np.save(folder / "train_ims.npy", DRAW.random((2, 3, 8), np.float32))
    (folder / "train_caps.txt").write_text("a dog\n" * 10)
    (folder / "train_ids.txt").write_text("1\n2\n")


def npz(folder: Path) -> None:
    np.savez(folder / "1.npz", x=FEATURES, bbox=BOXES, num_bbox=2, image_w=64, image_h=48)
    np.save(folder / "2.npy", FEATURES)
    info = {"bbox": BOXES, "num_boxes": 2, "image_width": 64, "image_height": 48}
    np.save(folder / "2_info.npy", np.array(info, dtype=object))


def lmdb(folder: Path) -> None:
    import lmdb as library

    value = {"features": FEATURES, "bbox": BOXES, "num_boxes": 2}
    value |= {"image_width": 64, "image_height": 48}
    with library.open(str(folder), map_size=1 << 22) as made, made.begin(write=True) as transaction:
        for at in range(3):
            transaction.put(str(at).encode(), pickle.dumps(value))
    (folder / "lock.mdb").unlink()


def genome(folder: Path) -> None:
    item = {"object_id": 1, "x": 1, "y": 2, "w": 3, "h": 4, "names": ["dog"], "attributes": ["red"]}
    link = {"predicate": "on", "subject_id": 1, "object_id": 1}
    images = [{"image_id": at, "objects": [item], "relationships": [link]} for at in range(3)]
    (folder / "f.json").write_text(json.dumps(images))


def entities(folder: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (folder / "1.xml").write_text(
        "<annotation><filename>1.jpg</filename><size><width>64</width><height>48</height></size>"
        f"<object><name>1</name>{box}</object></annotation>"
    )


def picture(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        noise = DRAW.integers(0, 255, (48, 64, 3), np.uint8)
        tag = Image.Exif()
        tag[0x0112] = 6
        Image.fromarray(noise).save(folder / "f.jpg", kind, exif=tag.tobytes())

    return make


def tar(folder: Path) -> None:
    import tarfile

    source = folder / "parts"
    source.mkdir()
    picture("JPEG")(source)
    (source / "f.txt").write_text("A dog.")
    with tarfile.open(folder / "f.tar", "w") as archive:
        for name in ("f.jpg", "f.txt"):
            archive.add(source / name, name)
    shutil.rmtree(source)


def yaml(folder: Path) -> None:
    shutil.copy(ROOT / "configs" / "sgm" / "sgm_f30k.yaml", folder / "f.yaml")


def last(folder: Path) -> None:
    import torch

    from models.training.checkpoint import save_last

    save_last(folder / "last.pt", {"epoch": 3, "weights": {"w": torch.arange(64.0)}})


def best(folder: Path) -> None:
    import torch

    from models.training.checkpoint import save_best

    save_best(folder / "best.safetensors", torch.nn.Linear(8, 8), {"epoch": 3})


def packaged(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        shutil.copy(ROOT / "pipeline" / "vision" / "data" / name, folder / "f.npz")

    return make


def ranks(folder: Path) -> None:
    from models.evaluation import METRICS, write_ranks
    from models.evaluation.metrics import Recall

    numbers = {name: float(at) for at, name in enumerate(METRICS)}
    found = Recall(numbers, np.arange(4), np.arange(20), np.arange(4))
    write_ranks(folder / "f.npz", found, np.arange(20) // 5)


def photos(folder: Path) -> None:
    from features import Detections
    from features.format.photo_file import Photo, write_photos

    none = np.zeros((0, 16), np.float32)
    scores = np.array([0.9, 0.5], np.float32)
    linked: dict[str, Any] = {"relations": (), "relation_scores": none[:, 0]}
    found = Detections(BOXES, ("dog", "cat"), scores, (64, 48), **linked)
    write_photos(folder / "f.npz", [Photo("1.jpg", found, FEATURES, none)])


def read_file(folder: Path) -> None:
    """Read captions, in the layout that the name tells."""
    (path,) = [path for path in folder.iterdir() if path.is_file()]
    for entry in read_captions(path).entries:
        str(entry)


def source(name: str, *parts: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        opened = open_source(name, folder.joinpath(*parts))
        try:
            opened.images()
            for key in opened.ids():
                with contextlib.suppress(ScenestoreError):
                    opened.read(key)
        finally:
            opened.close()

    return read


def read_picture(folder: Path) -> None:
    from pipeline.vision.images import read_image, read_size

    pixels, size = read_image(folder / "f.jpg"), read_size(folder / "f.jpg")
    assert size == (pixels.shape[1], pixels.shape[0])


def read_head(folder: Path) -> object:
    from pipeline.vision.label_head import LabelHead

    return LabelHead.load(folder / "f.npz").output.sum()


def read_prior(folder: Path) -> object:
    from pipeline.vision.predictors.prior import PriorTable

    return PriorTable.load(folder / "f.npz").counts.sum()


def read_numbers(folder: Path) -> object:
    from models.evaluation.results import read_ranks

    found, owner = read_ranks(folder / "f.npz")
    return dict(found), found.t2i_ranks.tolist(), owner.tolist()


def read_detected(folder: Path) -> object:
    from features.format.photo_file import read_photos

    return str(read_photos(folder / "f.npz"))


def read_config(folder: Path) -> None:
    from models.configuration import load

    load(folder / "f.yaml")


def read_last(folder: Path) -> object:
    from models.training.checkpoint import load_last

    found = load_last(folder / "last.pt")
    return found["epoch"], found["weights"]["w"].tolist()


def read_best(folder: Path) -> object:
    from models.training.checkpoint import load_best

    weights, about = load_best(folder / "best.safetensors")
    return {name: value.tolist() for name, value in weights.items()}, about


KINDS = {
    "captions of Karpathy": Kind(karpathy, read_file),
    "captions of COCO": Kind(coco, read_file),
    "captions in CSV": Kind(table, read_file),
    "captions in token files": Kind(tokens, read_file),
    "tars of photos and captions": Kind(tar, read_file),
    "features in TSV": Kind(tsv, source("bottom-up-tsv", "f.tsv")),
    "SCAN's npy": Kind(scan, source("scan-precomp")),
    "npz and npy": Kind(npz, source("npz")),
    "LMDB": Kind(lmdb, source("lmdb")),
    "Visual Genome": Kind(genome, source("visual-genome", "f.json")),
    "Flickr30k Entities": Kind(entities, source("entities")),
    **{f"photos in {kind}": Kind(picture(kind), read_picture) for kind in ("JPEG", "PNG", "WEBP")},
    "photos in TIFF": Kind(picture("TIFF"), read_picture),
    "label heads": Kind(packaged("label-head.npz"), read_head),
    "tables of predicates": Kind(packaged("predicate-prior.npz"), read_prior),
    "ranks of an evaluation": Kind(ranks, read_numbers),
    "detected photos": Kind(photos, read_detected),
    "configurations": Kind(yaml, read_config),
    "last.pt": Kind(last, read_last),
    "best.safetensors": Kind(best, read_best),
}


def main(name: str, folder: Path, seed: int, count: int) -> None:
    """Change and read the files of one kind; end with an error at the first fault."""
    kind = KINDS[name]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    whole = folder / "whole"
    whole.mkdir()
    kind.make(whole)
    before = kind.read(whole)
    contents = {path.name: path.read_bytes() for path in whole.iterdir()}
    changed = folder / "changed"
    shutil.copytree(whole, changed)
    for number in range(count):
        draw = random.Random(f"{name} {seed} {number}")
        file = draw.choice(sorted(contents))
        (folder / "number").write_text(str(number))
        (changed / file).unlink()
        (changed / file).write_bytes(mutate(contents[file], draw))
        signal.alarm(SECONDS)
        try:
            found = kind.read(changed)
        except (ScenestoreError, MemoryError):
            found = before
        assert found == before, f"{file} of {changed}: another content was read without a word"
        (changed / file).write_bytes(contents[file])
    signal.alarm(0)


def changed(name: str) -> Callable[..., None]:
    def test(tmp_path: Path, seed: int) -> None:
        count = 5 if seed < 0 else -(-COUNT // len(KINDS))
        code = "import sys; from tests.faults import mutations as m; from pathlib import Path; "
        code += "m.main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))"
        command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", code]
        done = subprocess.run(
            [*command, name, str(tmp_path), str(seed), str(count)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        number = (tmp_path / "number").read_text() if (tmp_path / "number").exists() else "none"
        where = f"change {number} of seed {seed}: exit code {done.returncode}"
        assert done.returncode == 0, f"{where}\n{done.stderr[-3000:]}"

    return test


for kind in KINDS:
    case(AREA, f"random changes of {kind}", REFUSED)(changed(kind))


def some(tmp_path: Path) -> None:
    """Read a few changed files of each kind that loads no torch, in this process."""
    for name, kind in KINDS.items():
        if name in ("LMDB", "last.pt", "best.safetensors"):
            continue
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        kind.make(folder)
        contents = {path: path.read_bytes() for path in sorted(folder.iterdir())}
        for number in range(6):
            draw = random.Random(f"{name} {number}")
            path = draw.choice([*contents])
            path.write_bytes(mutate(contents[path], draw))
            with contextlib.suppress(ScenestoreError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind.read(folder)
            path.write_bytes(contents[path])


case(AREA, "6 random changes of each kind", REFUSED, quick=True)(some)
