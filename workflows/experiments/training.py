"""Luigi tasks for training and evaluation.

They start the same commands that users type, in processes of their own; nothing here loads torch.
The key of a run covers its configuration, its overrides and the contents of the store, so a
finished run is not trained again and a changed one gets another folder.
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
from features.format import KEY_DIGITS, content_key, read_store_manifest, store_manifest_path
from workflows.launcher import run_in_group
from workflows.targets import RunTarget
from workflows.tasks import Task

TRAIN_VERSION = "1"
_ROOT = Path(__file__).resolve().parents[2]
_CONFIGS = (_ROOT / "models" / "configs", _ROOT / "configs")  # an installed package, a checkout


def config_file(name: str) -> Path:
    """Return the file of a training configuration, given its path or the name of a shipped one."""
    path = Path(name)
    found = (file for folder in _CONFIGS for file in folder.glob(f"*/{path.stem}.yaml"))
    return path if path.is_file() else next(found, path)


def train_command(
    config: str, store: str, folder: str, overrides: str, processes: int, plugins: str = ""
) -> list[str]:
    """Return the command that trains a run; several processes are started by torchrun."""
    module = ["-m", "models.train"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        module = [*launcher, *module]
    settings = ["--data.store", store, "--run.folder", folder, *shlex.split(overrides)]
    settings += ["--plugins", plugins] if plugins else []
    return [sys.executable, *module, config, *settings]


def evaluate(
    runs: Sequence[str | Path],
    store: str,
    split: str,
    results: str | Path,
    *,
    fold5: bool,
    rerank: bool,
    rerank_top: int,
    plugins: str = "",
    ranks: str | Path = "",
) -> None:
    """Evaluate runs and write the numbers to ``results``, the ranks of all queries to ``ranks``."""
    settings = ["--store", store, "--split", split, "--json", str(results)]
    settings += ["--fold5"] if fold5 else []
    settings += ["--rerank", "--rerank-top", str(rerank_top)] if rerank else []
    settings += ["--plugins", plugins] if plugins else []
    settings += ["--ranks", str(ranks)] if ranks else []
    run_in_group([sys.executable, "-m", "models.evaluate", *map(str, runs), *settings])


class TrainingTask(Task):
    """A task with the parameters of one run."""

    config = luigi.Parameter(
        description="training configuration: a file, or a shipped one by name, such as sgm_f30k"
    )
    store = luigi.Parameter(description="store folder or store manifest")
    run_dir = luigi.Parameter(default="", description="run folder; default: runs/NAME-KEY")
    overrides = luigi.Parameter(
        default="", description="options for models.train, such as '--optim.lr 1e-4'"
    )
    plugins = luigi.Parameter(
        default="",
        significant=False,
        description="modules or Python files that register models, separated by commas",
    )
    processes = luigi.IntParameter(
        default=1, significant=False, description="processes on this machine, started by torchrun"
    )
    gpus = luigi.IntParameter(
        default=0, significant=False, description="GPUs that Luigi's scheduler reserves"
    )

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]
        """The GPUs to reserve."""
        return {"gpu": self.gpus} if self.gpus else {}

    @cached_property
    def key(self) -> str:
        """Key of the run: configuration, overrides and contents of the store.

        Raises:
            MissingInput: no such configuration or store.
            UsageError: an override that has a parameter of its own.
        """
        path, words = config_file(self.config), shlex.split(self.overrides)
        for word in words:
            if word.partition("=")[0] in ("--run.folder", "--data.store"):
                raise UsageError(f"--overrides has {word}. Use --run-dir or --store instead.")
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            reason = error.strerror
            raise MissingInput(f"{path}: cannot be read ({reason}). Check --config.") from error
        store = read_store_manifest(store_manifest_path(Path(self.store)))
        inputs = {"config": hashlib.sha256(text.encode()).hexdigest(), "store": str(store["hash"])}
        return content_key("train", TRAIN_VERSION, {"overrides": words}, inputs)

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.run_dir:
            return Path(self.run_dir)
        return Path("runs") / f"{Path(self.config).stem}-{self.key[:KEY_DIGITS]}"

    def trained(self) -> bool:
        """Return True if the run has been trained to the end."""
        return RunTarget(self.folder, self.key).exists()


class TrainModel(TrainingTask):
    """Train one model from a store, or resume a training that was stopped."""

    def complete(self) -> bool:
        """Return True if the run has been trained; ``run`` reports an error of the parameters."""
        try:
            return self.trained()
        except ScenestoreError:
            return False

    def run(self) -> None:
        """Run ``python -m models.train`` in a process group of its own."""
        target = RunTarget(self.folder, self.key)
        run_in_group(
            train_command(
                self.config,
                self.store,
                str(self.folder),
                self.overrides,
                self.processes,
                self.plugins,
            )
        )
        target.finish()


class EvaluateModel(TrainingTask):
    """Evaluate a run; train it first if needed."""

    split = luigi.Parameter(default="test", description="split to evaluate")
    fold5 = luigi.BoolParameter(description="average over five folds (COCO 1K)")
    rerank = luigi.BoolParameter(description="evaluate with re-ranking, too")
    rerank_top = luigi.IntParameter(default=15, description="captions per image to re-rank")

    def requires(self) -> list[luigi.Task]:
        """Return the training."""
        return [self.clone(TrainModel)]

    @property
    def results(self) -> Path:
        """The file with the numbers."""
        flags = [name for name in ("fold5", "rerank") if getattr(self, name)]
        if self.rerank and self.rerank_top != 15:
            flags.append(f"top{self.rerank_top}")
        return self.folder / f"evaluation-{'-'.join([self.split, *flags])}.json"

    def complete(self) -> bool:
        """Return True if the run is trained and its numbers are newer than its weights."""
        try:
            weights = (self.folder / "best.safetensors").stat().st_mtime_ns
            return self.trained() and self.results.stat().st_mtime_ns >= weights
        except (OSError, ScenestoreError):
            return False

    def run(self) -> None:
        """Run ``python -m models.evaluate`` in a process group of its own."""
        evaluate(
            [self.folder],
            self.store,
            self.split,
            self.results,
            fold5=self.fold5,
            rerank=self.rerank,
            rerank_top=self.rerank_top,
            plugins=self.plugins,
        )


class EvaluateRuns(Task):
    """Evaluate one trained run, or the ensemble of several, into one file."""

    runs = luigi.ListParameter(description="run folders")
    store = luigi.Parameter(description="store folder or store manifest")
    split = luigi.Parameter(description="split to evaluate")
    results = luigi.Parameter(description="file for the numbers")
    fold5 = luigi.BoolParameter(description="average over five folds (COCO 1K)")
    rerank = luigi.BoolParameter(description="evaluate with re-ranking, too")
    rerank_top = luigi.IntParameter(default=15, description="captions per image to re-rank")

    @property
    def ranks(self) -> Path:
        """The file with the rank of every query, for ``models.compare``."""
        return Path(self.results).with_suffix(".npz")

    def complete(self) -> bool:
        """Return True if the file is about these runs, store and split, and newer than the runs."""
        path = Path(self.results)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            store = read_store_manifest(store_manifest_path(Path(self.store)))
            weights = [Path(run) / "best.safetensors" for run in self.runs]
            newest = max(one.stat().st_mtime_ns for one in weights)
            return bool(
                (document["split"], document["fold5"]) == (self.split, self.fold5)
                and document.get("rerank_top", 0) == (self.rerank_top if self.rerank else 0)
                and str(store["hash"]).startswith(document["store"]["store"])
                and [one["folder"] for one in document["runs"]] == [*map(str, self.runs)]
                and min(one.stat().st_mtime_ns for one in (path, self.ranks)) >= newest
            )
        except (OSError, ValueError, KeyError, TypeError, ScenestoreError):
            return False

    def run(self) -> None:
        """Run ``python -m models.evaluate`` in a process group of its own."""
        evaluate(
            self.runs,
            self.store,
            self.split,
            self.results,
            fold5=self.fold5,
            rerank=self.rerank,
            rerank_top=self.rerank_top,
            ranks=self.ranks,
        )
