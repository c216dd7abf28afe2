"""The demo: build stores of rendered scenes and public-domain photos, train, evaluate and report.

``BuildDemo`` builds the stores. ``Demo`` also trains SGM on the scenes, evaluates it beside a
bag-of-words baseline and writes ``report.html``. Colours, sizes and exact relations of the scenes
are in pixels and boxes only, so the baseline cannot use them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luigi

from features.commands import next_steps
from features.errors import MissingDependency
from workflows.build import BuildDataset, BuildOptions, BuildTask, option_parameter
from workflows.experiments import EvaluateModel
from workflows.launcher import run_in_group
from workflows.tasks import EntryTask, Task

__all__ = ["BuildDemo", "Demo", "MakeDemoInput"]

INPUT_VERSION = "1"


class MakeDemoInput(Task):
    """Render the scenes and copy the photos of scikit-image."""

    folder = luigi.PathParameter(description="folder of the raw input")
    images = luigi.IntParameter(default=600, description="number of scenes to render")
    seed = luigi.IntParameter(default=0, description="random seed of the scenes")

    def output(self) -> luigi.LocalTarget:
        """Return a file that is written last."""
        name = f"input-{INPUT_VERSION}-{self.images}-{self.seed}.txt"
        return luigi.LocalTarget(str(self.folder / name))

    def run(self) -> None:
        """Write scenes, photos and their captions."""
        # loads PIL
        from pipeline.demo import make_scenes, write_photos

        make_scenes(self.folder / "scenes", self.images, self.seed)
        photos = "photos"
        try:
            write_photos(self.folder / "photos")
        except MissingDependency as error:
            photos = f"no photos: {error}"
            sys.stderr.write(f"{photos}\n")
        with self.output().open("w") as file:
            file.write(f"{self.images} scenes, {photos}\n")


class BuildDemo(EntryTask, BuildTask):
    """Build a store of photos with nanodet, and one of scenes with their known graphs."""

    dataset = option_parameter(
        BuildOptions, "dataset", default="demo", description="ignored: there are two data sets"
    )
    store_dir = option_parameter(BuildOptions, "store_dir", default="demo/store")
    images = MakeDemoInput.images
    seed = MakeDemoInput.seed
    # a scene has at most seven objects; padding them to 36 would only take time
    max_objects = option_parameter(BuildOptions, "max_objects", default=8)
    max_relations = option_parameter(BuildOptions, "max_relations", default=12)

    @property
    def raw(self) -> Path:
        """Folder of the raw input, beside the store."""
        return Path(self.store_dir).parent / "input"

    def needs(self) -> list[luigi.Task]:
        """Return the task that writes the raw input."""
        return [self.clone(MakeDemoInput, folder=self.raw)]

    def work(self) -> Iterator[luigi.Task]:
        """Build the scenes last: the store folder then opens their store."""
        photos, scenes = self.raw / "photos", self.raw / "scenes"
        if (photos / "dataset_photos.json").exists():
            yield self._build(
                "photos",
                images_dir=str(photos / "images"),
                captions=str(photos / "dataset_photos.json"),
                max_objects=36,
                max_relations=25,
            )
        yield self._build(
            "scenes",
            images_dir=str(scenes / "images"),
            captions=str(scenes / "dataset_scenes.json"),
            detector="scene-graphs",
            detections=str(scenes / "scene_graphs.json"),
        )

    def _build(self, dataset: str, **changes: Any) -> luigi.Task:
        return self.clone(BuildDataset, dataset=dataset, **changes)


class Demo(EntryTask):
    """Build the stores of the demo, train, evaluate and write one self-contained report."""

    demo_dir = luigi.Parameter(default="demo", description="folder for everything")
    images = MakeDemoInput.images
    jobs = option_parameter(BuildOptions, "jobs")

    @property
    def store(self) -> Path:
        """The store folder."""
        return Path(self.demo_dir) / "store"

    def needs(self) -> list[luigi.Task]:
        """Return the build of the stores."""
        return [self.clone(BuildDemo, store_dir=str(self.store))]

    def work(self) -> Iterator[list[luigi.Task]]:
        """Train and evaluate both models, then write the report and print its path."""
        demo = Path(self.demo_dir)
        runs = {name: demo / "runs" / name for name in ("sgm", "tfidf")}
        yield [
            self.clone(
                EvaluateModel,
                config=f"demo_{name}",
                store=str(self.store),
                run_dir=str(folder),
            )
            for name, folder in runs.items()
        ]
        images, report = demo / "input" / "scenes" / "images", demo / "report.html"
        command = [sys.executable, "-m", "models.report", self.store, *runs.values()]
        run_in_group([*map(str, command), "--images-dir", str(images), "--out", str(report)])
        sys.stdout.write(f"report: {report.resolve()}\n")
        text = "a small dog in front of a table"
        next_steps(["search", self.store, runs["sgm"], text], ["show", self.store])
