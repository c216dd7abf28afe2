"""Training and evaluation as Luigi tasks: the same commands that people type, in own processes.

Nothing here imports torch. A run's key covers configuration, overrides and the store's contents, so
that a finished run is never trained again and a changed one gets a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import luigi

from features.errors import MissingInput, ScenestoreError, UsageError
from features.format.keys import KEY_DIGITS, content_key
from features.format.manifest import read_store_manifest, store_manifest_path
from workflows.launcher import run_in_group

__all__ = ["EvaluateModel", "EvaluateRuns", "TrainModel", "train_command"]

TRAIN_VERSION = "1"
MARKER = "trained.json"


def train_command(
    config: str, store: str, folder: str, overrides: str, processes: int
) -> list[str]:
    """Return the command that trains one run; with several processes it goes through torchrun."""
    module = ["-m", "models.train"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        module = [*launcher, *module]
    settings = ["--data.store", store, "--run.folder", folder, *shlex.split(overrides)]
    return [sys.executable, *module, config, *settings]


def evaluate_command(
    runs: Sequence[str | Path], store: str, split: str, results: str | Path, flags: list[str]
) -> list[str]:
    """Return the command that evaluates runs and writes the numbers to ``results``."""
    settings = ["--store", store, "--split", split, "--json", str(results), *flags]
    return [sys.executable, "-m", "models.evaluate", *map(str, runs), *settings]


class RunTarget(luigi.Target):
    """A run folder whose marker carries this key: training ended well."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def exists(self) -> bool:
        """Return True when the run has been trained to its end under this key."""
        try:
            return bool(json.loads((self.folder / MARKER).read_text())["key"] == self.key)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def finish(self) -> None:
        """Write the marker."""
        partial = self.folder / f"{MARKER}.partial"
        partial.write_text(json.dumps({"key": self.key}) + "\n")
        partial.replace(self.folder / MARKER)


class TrainingTask(luigi.Task):
    """Parameters of everything that has to do with one run."""

    config = luigi.Parameter(
        description="training configuration, for example configs/sgm_f30k.yaml"
    )
    store = luigi.Parameter(description="store folder or store manifest")
    run_dir = luigi.Parameter(default="", description="run folder; default: runs/NAME-KEY")
    overrides = luigi.Parameter(
        default="", description="options for models.train, for example '--optim.lr 1e-4'"
    )
    processes = luigi.IntParameter(
        default=1, significant=False, description="ranks on this machine, through torchrun"
    )
    gpus = luigi.IntParameter(
        default=0, significant=False, description="GPUs that Luigi's scheduler must have free"
    )

    @property
    def resources(self) -> dict[str, int]:
        """Tell Luigi how many GPUs the task takes."""
        return {"gpu": self.gpus} if self.gpus else {}

    @cached_property
    def key(self) -> str:
        """Key of the run: configuration, overrides, contents of the store.

        Raises:
            MissingInput: configuration or store are not there.
            UsageError: an override that would make the key wrong.
        """
        path, words = Path(self.config), shlex.split(self.overrides)
        for word in words:
            if word.partition("=")[0] in ("--run.folder", "--data.store"):
                raise UsageError(f"{word} in --overrides: name it with --run-dir or --store.")
        try:
            text = path.read_text()
        except OSError as error:
            raise MissingInput(
                f"{path}: cannot be read ({error.strerror}). Check --config."
            ) from error
        store = read_store_manifest(store_manifest_path(Path(self.store)))
        inputs = {"config": hashlib.sha256(text.encode()).hexdigest(), "store": str(store["hash"])}
        return content_key("train", TRAIN_VERSION, {"overrides": words}, inputs)

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.run_dir:
            return Path(self.run_dir)
        return Path("runs") / f"{Path(self.config).stem}-{self.key[:KEY_DIGITS]}"

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler the error's message; Luigi would send a stack trace."""
        return f"{type(exception).__name__}: {exception}"


class TrainModel(TrainingTask):
    """Train one model from a store; killed and started again, it goes on where it was."""

    def complete(self) -> bool:
        """Return True when the run has ended well; a mistake in the inputs is told by ``run``."""
        try:
            return RunTarget(self.folder, self.key).exists()
        except ScenestoreError:
            return False

    def run(self) -> None:
        """Start ``python -m models.train`` in its own process group and wait."""
        target = RunTarget(self.folder, self.key)
        run_in_group(
            train_command(self.config, self.store, str(self.folder), self.overrides, self.processes)
        )
        target.finish()


class EvaluateModel(TrainingTask):
    """Evaluate a run, training it first where that has not happened."""

    split = luigi.Parameter(default="test", description="split to evaluate on")
    fold5 = luigi.BoolParameter(description="mean of five folds (COCO 1K)")
    rerank = luigi.BoolParameter(description="also with re-ranking")

    def requires(self) -> luigi.Task:
        """Need the trained run."""
        names = TrainingTask.get_param_names(include_significant=True)
        return TrainModel(**{name: getattr(self, name) for name in names})

    @property
    def results(self) -> Path:
        """The file with the numbers."""
        parts = [self.split, "fold5" if self.fold5 else "", "rerank" if self.rerank else ""]
        return self.folder / f"evaluation-{'-'.join(part for part in parts if part)}.json"

    def complete(self) -> bool:
        """Return True when the run is this one, and its numbers are newer than the weights."""
        try:
            weights = (self.folder / "best.safetensors").stat().st_mtime_ns
            trained = RunTarget(self.folder, self.key).exists()
            return trained and self.results.stat().st_mtime_ns >= weights
        except (OSError, ScenestoreError):
            return False

    def run(self) -> None:
        """Start ``python -m models.evaluate`` in its own process group and wait."""
        flags = [f"--{name}" for name in ("fold5", "rerank") if getattr(self, name)]
        run_in_group(evaluate_command([self.folder], self.store, self.split, self.results, flags))


class EvaluateRuns(luigi.Task):
    """Evaluate trained runs into one file: a single one, or the ensemble of several."""

    runs = luigi.ListParameter(description="run folders")
    store = luigi.Parameter(description="store folder or store manifest")
    split = luigi.Parameter(description="split to evaluate on")
    results = luigi.Parameter(description="the file with the numbers")
    fold5 = luigi.BoolParameter(description="mean of five folds (COCO 1K)")

    def complete(self) -> bool:
        """Return True when the file is about this split of this store and newer than the runs."""
        path = Path(self.results)
        try:
            document = json.loads(path.read_text())
            store = read_store_manifest(store_manifest_path(Path(self.store)))
            weights = [Path(run) / "best.safetensors" for run in self.runs]
            newest = max(one.stat().st_mtime_ns for one in weights)
            return bool(
                (document["split"], document["fold5"]) == (self.split, self.fold5)
                and str(store["hash"]).startswith(document["store"]["store"])
                and [one["folder"] for one in document["runs"]] == [*map(str, self.runs)]
                and path.stat().st_mtime_ns >= newest
            )
        except (OSError, ValueError, KeyError, TypeError, ScenestoreError):
            return False

    def run(self) -> None:
        """Start ``python -m models.evaluate`` in its own process group and wait."""
        flags = ["--fold5"] if self.fold5 else []
        run_in_group(evaluate_command(self.runs, self.store, self.split, self.results, flags))
