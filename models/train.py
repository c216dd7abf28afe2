"""Train a matching model: ``python -m models.train CONFIG.yaml [--section.key value ...]``.

One process, several under ``torchrun``, or a SLURM job (``examples/train.sbatch``): the same
command. The run folder holds ``config.yaml`` (everything resolved), ``codebook.json``,
``store.json`` (what it reads), ``metrics.csv``, ``last.pt`` (to go on from) and
``best.safetensors`` (best rsum on the validation split). Run the same command again and it goes on
where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.commands.program import exit_cleanly
from features.errors import TrainingError
from models.configuration.config import Config, load, to_yaml, usage

if TYPE_CHECKING:
    import torch

    from models.compute.distributed import World
    from models.training.runs import Data

__all__ = ["STOPPED", "main", "train"]

STOPPED = 75  # EX_TEMPFAIL: saved after a signal, the same command goes on


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0 if words else 2
    return train(load(words[0], words[1:]))


def train(config: Config) -> int:
    """Train one configuration; returns 0, or 75 when a signal stopped it.

    Raises: ScenestoreError: with one line that says what to do.
    """
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from models.compute.device import memory_errors, pick_device
    from models.compute.distributed import join_world

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with join_world(config.run.device) as world, contextlib.ExitStack() as held:
        device = pick_device(config.run.device, world)
        last = Path(config.run.folder) / "last.pt"
        advice = "Lower --data.batch_size (and raise --optim.accumulate)"
        with memory_errors(device, f"{advice} and run again; {last} is kept."):
            return _train(config, world, device, held)


def _train(config: Config, world: World, device: torch.device, held: contextlib.ExitStack) -> int:
    import numpy as np
    import torch

    from models.training import checkpoint
    from models.training.runs import CODEBOOK, make_model, open_data
    from models.training.trainer import Stopped, Trainer

    folder = Path(config.run.folder)
    resume = _resume_from(config, folder)
    data = open_data(config)
    random.seed(config.run.seed)
    np.random.seed(config.run.seed)
    torch.use_deterministic_algorithms(config.run.deterministic)
    torch.backends.cudnn.benchmark = not config.run.deterministic
    model = make_model(config, data).to(device)
    if world.size > 1 and device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not getattr(model, "learns", True):
        if world.first:
            held.enter_context(_only_job(folder))
            return _keep(config, data, model, device)
        return 0
    torch.manual_seed(config.run.seed + world.rank)  # ranks draw different dropout masks
    trainer = Trainer(config, data, model, world, device)
    if resume is not None:
        trainer.restore(resume)
    if world.first:
        held.enter_context(_only_job(folder))
        _prepare_folder(folder, config, data, fresh=resume is None)
        if resume is None or not (folder / CODEBOOK).exists():
            data.codebook.save(folder / CODEBOOK)
        weights = sum(value.numel() for value in model.parameters())
        pairs = len(data.store.caption_rows(config.data.train))
        _say(
            f"{config.model.name}: {weights / 1e6:.1f} M weights, {pairs:,} pairs in "
            f"{trainer.steps_per_epoch:,} steps an epoch, {trainer.total:,} steps, {device}"
            + (f" x {world.size}" if world.size > 1 else "")
            + (f", going on at step {trainer.at.step}" if resume else "")
        )
    try:
        at = trainer.fit()
    except Stopped:
        if world.first:
            _say(f"stopped by a signal at step {trainer.at.step}; the same command goes on.")
        return STOPPED
    if world.first:
        best = folder / checkpoint.BEST
        _say(f"done: best rsum {at.best:.1f} on {config.data.val} at step {at.best_step}: {best}")
    return 0


def _keep(config: Config, data: Data, model: Any, device: torch.device) -> int:
    """Evaluate a model that learns nothing by gradient, and leave a run folder like any other."""
    from models.training import checkpoint
    from models.training.logs import MetricsFile
    from models.training.runs import CODEBOOK, about_run

    folder = Path(config.run.folder)
    _prepare_folder(folder, config, data, fresh=True)
    data.codebook.save(folder / CODEBOOK)
    found = data.evaluate(model, device)
    assert found is not None  # one process alone is the first
    MetricsFile(folder / "metrics.csv").add(step=0, epoch=0, kind="val", **dict(found))
    about = about_run(config, model.options, data.keys, step=0, epoch=0, rsum=found.rsum)
    checkpoint.save_best(folder / checkpoint.BEST, model, about)
    _say(
        f"{config.model.name} learns nothing: rsum {found.rsum:.1f} on {config.data.val}: {folder}"
    )
    return 0


def _resume_from(config: Config, folder: Path) -> Path | None:
    """Return the checkpoint to go on from, if any."""
    if config.run.resume == "never":
        return None
    if config.run.resume == "auto":
        last = folder / "last.pt"
        return last if last.is_file() else None
    return Path(config.run.resume)


@contextlib.contextmanager
def _only_job(folder: Path) -> Iterator[None]:
    """Hold a run folder; freed when the process dies. Not every file system offers such locks.

    Raises: TrainingError: another job trains in it.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(
                    f"{folder}: another job trains in this run folder. Wait for it, or choose "
                    "another --run.folder."
                ) from None
        yield
    finally:
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> TrainingError:
    reason = f"cannot be written ({error.strerror})"
    return TrainingError(f"{folder}: {reason}; choose another --run.folder.")


def _prepare_folder(folder: Path, config: Config, data: Data, *, fresh: bool) -> None:
    """Make the run folder, drop leftovers of killed writers, write configuration and store.

    Only now, when nothing that the user wrote can be wrong any more, ``--run.resume never`` drops
    the run before; results of other weights go with every fresh start.
    """
    from features.format.files import sweep
    from models.training import checkpoint
    from models.training.runs import CODEBOOK, STORE, about_store

    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        if config.run.resume == "never":
            for name in (CODEBOOK, checkpoint.LAST, checkpoint.BEST):
                (folder / name).unlink(missing_ok=True)
        if fresh:
            for pattern in ("results-*", "queries-*", "evaluation-*", "trained.json"):
                for stale in folder.glob(pattern):
                    stale.unlink()
        for name, text in (("config.yaml", to_yaml(config)), (STORE, about_store(data.store))):
            partial = folder / f"{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    exit_cleanly(main)
