"""Time of the visual stage per image, as ratios: ``python -m benchmarks.vision [IMAGES_DIR]``.

The baseline is the inference of the detector plus the decoding of the JPEG. The stage adds boxes,
graph rules, relations and the features of all objects and union boxes. Both are measured in turn
for each image, in processor time; the median is reported. Without a folder, public-domain photos
from scikit-image are used, saved as JPEGs of 500 pixels.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from features.commands import exit_cleanly
from features.decoding import FORMATS
from features.errors import MissingInput
from features.records import ImageEntry
from pipeline.detect import create_detector
from pipeline.vision import (
    SIDE,
    GraphBuilder,
    LazyImage,
    create_extractor,
    create_relations,
    read_image,
    rules_for,
    session,
)

COUNT = 60
SCORES = ["c8", "c16", "c32", "r8", "r16", "r32"]  # outputs that detection alone needs


def photos(folder: Path) -> list[Path]:
    """Write JPEGs of scikit-image's photos, 500 pixels wide or high."""
    import skimage
    from PIL import Image

    made = []
    for name in ("astronaut.png", "chelsea.png", "horse.png", "coffee.png", "rocket.jpg"):
        image = Image.open(Path(skimage.__file__).parent / "data" / name, formats=FORMATS).convert(
            "RGB"
        )
        image.thumbnail((500, 500))
        made.append(folder / f"{Path(name).stem}.jpg")
        image.save(made[-1], quality=90)
    return [made[at % len(made)] for at in range(COUNT)]


def large(folder: Path) -> Path:
    """Write a JPEG like one from a camera: 4000 pixels, with noise."""
    import skimage
    from PIL import Image

    photo = Image.open(
        Path(skimage.__file__).parent / "data" / "coffee.png", formats=FORMATS
    ).convert("RGB")
    photo = photo.resize((4000, 4000 * photo.height // photo.width), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 6, (photo.height, photo.width, 1))
    pixels = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "large.jpg", quality=92)
    return folder / "large.jpg"


def stage(paths: list[Path]) -> None:
    """Run the visual stage on these images."""
    detector = create_detector("nanodet")
    tools = (detector, create_relations("geometric"), create_extractor("detector", detector))
    for path in paths:
        builder = GraphBuilder(*tools, rules_for(detector), path.parent)
        builder.build(ImageEntry(path.name, path.name, ""))


def seconds(action: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def wall(paths: list[Path], jobs: int) -> float:
    """Return the wall time of ``jobs`` processes that share the images, without their start."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        parts = [paths[at::jobs] for at in range(jobs)]
        pool.map(stage, [part[:1] for part in parts], chunksize=1)
        start = time.perf_counter()
        pool.map(stage, parts, chunksize=1)
        return time.perf_counter() - start


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            paths = sorted(Path(sys.argv[1]).glob("*.jpg"))[:COUNT]
            if not paths:
                raise MissingInput(f"{sys.argv[1]}: no .jpg files in this folder.")
        else:
            paths = photos(Path(folder))
        network, blank = session()[0], np.zeros((1, 3, SIDE, SIDE), np.float32)
        stage(paths[:2])
        rows = [
            [
                seconds(lambda: read_image(path)),  # noqa: B023  (called at once)
                seconds(lambda: network.run(SCORES, {"image": blank})),
                seconds(lambda: stage([path])),  # noqa: B023
            ]
            for path in paths
        ]
        decode, infer, whole = np.median(rows, axis=0)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        alone, both = (min(wall(paths, jobs) for _ in range(2)) for jobs in (1, 2))
        camera, limit = large(Path(folder)), 4000 / (1.5 * SIDE)
        pairs = [
            [
                seconds(lambda: read_image(camera)),
                seconds(lambda: LazyImage.open("large", camera).reduced(limit)),
            ]
            for _ in range(7)
        ]
        all_pixels, fewer = np.median(pairs, axis=0)
    print("| what | per image | ratio |\n| --- | --- | --- |")
    print(f"| decoding | {1000 * decode:.1f} ms | |")
    print(f"| inference alone | {1000 * infer:.1f} ms | |")
    print(f"| decoding 4000 pixels | {1000 * all_pixels:.1f} ms | |")
    less = f"{fewer / all_pixels:.2f} x the row above"
    print(f"| the same for `nanodet` | {1000 * fewer:.1f} ms | {less} |")
    ratio = f"{whole / (decode + infer):.2f} x decoding and inference"
    print(f"| whole visual stage | {1000 * whole:.1f} ms | {ratio} |")
    print(f"| two jobs instead of one | | {alone / both:.2f} x faster |")
    print(f"| peak memory of a worker | {memory:.0f} MB | |")
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
