"""The demo: rendered scenes and public-domain photos become stores, a model and a report.

``BuildDemo`` builds the stores; ``Demo`` also trains SGM on the scenes, evaluates it beside a
bag-of-words baseline and writes ``report.html``. Every truth of the scenes is known, and colours,
sizes and exact relations are in the pixels and boxes only, so the baseline cannot see them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from features.errors import MissingDependency
from workflows.build.datasets import BuildDataset
from workflows.build.stages import BuildTask
from workflows.cluster import usable_cores
from workflows.experiments.training import EvaluateModel
from workflows.launcher import run_in_group

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BuildDemo", "Demo", "MakeDemoInput"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
INPUT_VERSION = "1"


class MakeDemoInput(luigi.Task):
    """Render the scenes and copy the photos that scikit-image ships."""

    folder = luigi.PathParameter(description="where the raw input goes")
    images = luigi.IntParameter(default=600, description="scenes to render")
    seed = luigi.IntParameter(default=0, description="another seed, other scenes")

    def output(self) -> luigi.LocalTarget:
        """Return the marker that everything has been written."""
        name = f"input-{INPUT_VERSION}-{self.images}-{self.seed}.txt"
        return luigi.LocalTarget(str(self.folder / name))

    def run(self) -> None:
        """Write scenes, photos and their captions."""
        from pipeline.demo.photos import write_photos
        from pipeline.demo.scenes import make_scenes

        make_scenes(self.folder / "scenes", self.images, self.seed)
        photos = "photos"
        try:
            write_photos(self.folder / "photos")
        except MissingDependency as error:
            photos = f"no photos: {error}"
            sys.stderr.write(f"{photos}\n")
        with self.output().open("w") as file:
            file.write(f"{self.images} scenes, {photos}\n")


class BuildDemo(BuildTask):
    """Build the demo's stores: photos through nanodet, then scenes with their known graphs."""

    dataset = luigi.Parameter(default="demo", description="not used: scenes and photos")
    store_dir = luigi.Parameter(default="demo/store", description="folder of the store")
    images = luigi.IntParameter(default=600, description="scenes to render")
    seed = luigi.IntParameter(default=0, description="another seed, other scenes")
    # A scene has at most seven objects; padding them to 36 would cost time and tell nothing.
    max_objects = luigi.IntParameter(default=8, description="most objects per scene")
    max_relations = luigi.IntParameter(default=12, description="most relations per scene")

    _done = False

    @property
    def raw(self) -> Path:
        """Folder of the raw input, beside the store."""
        return Path(self.store_dir).parent / "input"

    def requires(self) -> luigi.Task:
        """Need the raw input."""
        return MakeDemoInput(folder=self.raw, images=self.images, seed=self.seed)

    def complete(self) -> bool:
        """Return True once this process has built or found the stores."""
        return self._done

    def run(self) -> Iterator[luigi.Task]:
        """Build photos first, so that the scenes are what the store folder opens."""
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
        self._done = True

    def _build(self, dataset: str, **changes: Any) -> luigi.Task:
        return self.clone(BuildDataset, dataset=dataset, **changes)


class Demo(luigi.Task):
    """Build the demo's stores, train, evaluate and write one self-contained report."""

    demo_dir = luigi.Parameter(default="demo", description="folder for everything")
    images = luigi.IntParameter(default=600, description="scenes to render")
    jobs = luigi.IntParameter(
        default=usable_cores(), significant=False, description="local worker processes"
    )

    _done = False

    def requires(self) -> luigi.Task:
        """Need the stores."""
        return BuildDemo(store_dir=str(self.store), images=self.images, jobs=self.jobs)

    @property
    def store(self) -> Path:
        """The store folder."""
        return Path(self.demo_dir) / "store"

    @property
    def report(self) -> Path:
        """The report."""
        return Path(self.demo_dir) / "report.html"

    def complete(self) -> bool:
        """Return True once this process has written the report."""
        return self._done

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler the error's message; Luigi would send a stack trace."""
        return f"{type(exception).__name__}: {exception}"

    def run(self) -> Iterator[list[luigi.Task]]:
        """Train and evaluate both models, then write the report and say where it is."""
        runs = {name: Path(self.demo_dir) / "runs" / name for name in ("sgm", "tfidf")}
        yield [
            EvaluateModel(
                config=str(CONFIGS / f"demo_{name}.yaml"),
                store=str(self.store),
                run_dir=str(folder),
            )
            for name, folder in runs.items()
        ]
        images = Path(self.demo_dir) / "input" / "scenes" / "images"
        command: list[Any] = [sys.executable, "-m", "models.report", self.store, *runs.values()]
        run_in_group([*map(str, command), "--images-dir", str(images), "--out", str(self.report)])
        sys.stdout.write(f"report: {self.report.resolve()}\n")
        self._done = True
