"""Demo data without licence restrictions: rendered scenes, captions and detections.

The detections have labels only. Colours, sizes, exact relations and grounds are visible only in
pixels and boxes, so a model that uses these outperforms a comparison of words with labels.
"""

from __future__ import annotations

import csv
import itertools
import random
from pathlib import Path

from features.errors import UsageError
from pipeline.demo.captions import write_captions
from pipeline.demo.dataset import write_captions_file, write_json
from pipeline.demo.drawing import draw_scene
from pipeline.demo.world import COMBINATIONS, Box, Scene, plan_scene

NEAR = 40  # largest gap of the relation near, in pixels


def make_scenes(folder: Path, images: int = 600, seed: int = 0) -> None:
    """Render scenes and write the input of a build.

    Writes ``images/scene-00000.jpg`` ..., ``dataset_scenes.json`` (Karpathy's schema, five captions
    per image) and ``scene_graphs.json`` (detections in the layout of SGM's graph files).

    Args:
        folder: folder to write to; created if missing.
        images: number of scenes; two thirds are for training, a fifth for testing.
        seed: random seed; equal seeds give equal files.

    Raises: UsageError: fewer than 15 images, which would leave a split empty.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    splits = splits_of(images, seed)
    captions: list[list[str]] = []
    graphs = {}
    for number, scene in enumerate(plan_scenes(images, seed)):
        rng = random.Random(f"words {seed} {number}")
        name = f"scene-{number:05d}.jpg"
        image = draw_scene(scene, seed * 1_000_003 + number)
        image.save(folder / "images" / name, quality=90, subsampling=0)
        graphs[name] = detections_of(scene, rng)
        captions.append(write_captions(scene, rng))
    write_captions_file(
        folder / "dataset_scenes.json", "scenes", zip(graphs, splits, captions, strict=True)
    )
    write_json(folder / "scene_graphs.json", graphs)


def make_folder(folder: Path, images: int = 40, seed: int = 0) -> None:
    """Render scenes as a folder of one's own looks: ``photos/00.jpg`` ... and ``captions.csv``.

    ``new.jpg`` is one more scene, which has no captions.

    Args:
        folder: folder to write to; created if missing.
        images: number of scenes with five captions each.
        seed: random seed; equal seeds give equal files.

    Raises: UsageError: no image is asked for.
    """
    if images < 1:
        raise UsageError(f"{images} scenes cannot be rendered. Use at least 1.")
    folder = Path(folder)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    *scenes, new = plan_scenes(images + 1, seed)
    digits = max(2, len(str(images - 1)))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file_name", "caption"])
        for number, scene in enumerate(scenes):
            name = f"{number:0{digits}d}.jpg"
            image = draw_scene(scene, seed * 1_000_003 + number)
            image.save(folder / "photos" / name, quality=90, subsampling=0)
            words = random.Random(f"words {seed} {number}")
            table.writerows([name, caption] for caption in write_captions(scene, words))
    draw_scene(new, seed * 1_000_003 + images).save(folder / "new.jpg", quality=90, subsampling=0)


def plan_scenes(images: int, seed: int = 0) -> list[Scene]:
    """Return the plans of all scenes; consecutive scenes cycle through the label combinations."""
    return [
        plan_scene(random.Random(f"plan {seed} {number}"), number % len(COMBINATIONS))
        for number in range(images)
    ]


def splits_of(images: int, seed: int = 0) -> list[str]:
    """Return the split of each scene: 10 of 15 train, 2 val, 3 test, each with all combinations.

    Raises: UsageError: fewer than 15 images.
    """
    if images < 15:
        raise UsageError(f"{images} scenes would leave a split empty. Use at least 15.")
    share = ["train"] * 10 + ["val"] * 2 + ["test"] * 3
    return [share[(number // len(COMBINATIONS) + 7 * (number % len(COMBINATIONS)) + seed) % 15]
            for number in range(images)]  # fmt: skip


def detections_of(scene: Scene, rng: random.Random) -> dict[str, object]:
    """Return the detections of a scene: labels, boxes and coarse relations, in random order.

    Relations are ``touching`` for boxes that touch and ``near`` for boxes that are close, which
    follows from the boxes. The ground is an object with the label ``ground``.
    """
    width, height = scene.size
    found: list[tuple[str, Box]] = [("ground", (0.0, float(scene.horizon), width, height))]
    for entity in scene.entities:
        found += [(entity.label, box) for box in entity.boxes]
    rng.shuffle(found)
    names = [f"{label}:{row}" for row, (label, _) in enumerate(found)]
    relations = []
    for (subject, (_, a)), (other, (_, b)) in itertools.combinations(
        zip(names, found, strict=True), 2
    ):
        gap = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])  # at most 0 if they touch
        if gap <= NEAR:
            relations.append([subject, "touching" if gap <= 0 else "near", other])
    return {
        "labels": [label for label, _ in found],
        "bbox": [[round(float(v), 1) for v in box] for _, box in found],
        "rels": relations,
    }
