"""Train a matching model: ``python -m models.train CONFIG [--section.key value ...]``.

CONFIG is a YAML file or the name of a shipped configuration. The same command runs in one process,
under ``torchrun`` or as a SLURM job (``examples/train.sbatch``), and resumes a run that was
stopped. ``models.training.run.RunFolder`` lists the files that it writes.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from features.allocator import keep_freed_memory
from features.commands import Program, next_steps
from models.configuration import Config, describe_options, load, shipped
from models.training import Data, MetricsFile, RunFolder, make_model, open_data, run_metadata

if TYPE_CHECKING:
    import torch

    from models.compute import World

__all__ = ["STOPPED", "app", "train"]

STOPPED = 75  # EX_TEMPFAIL: saved after a signal, run the same command again

EXAMPLES = """\b
Examples:
  python -m models.train sgm_f30k --data.store stores/flickr30k
  torchrun --standalone --nproc_per_node 4 -m models.train CONFIG ..."""

app = Program("python -m models.train", plugins=True)


@app.command(
    "train",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": ["-h", "--help"],
    },
    options_metavar="",
    epilog=f"{EXAMPLES}\n{describe_options()}\n\nShipped configurations: {', '.join(shipped())}.",
)
def main(
    context: typer.Context,
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or the name of a shipped one.")
    ],
) -> int:
    """Train a matching model from a store, or resume a run that was stopped.

    Exit codes: 0 finished, 1 training failed, 2 wrong options, 75 stopped by SIGTERM or SIGUSR1
    after saving: run the same command again to resume.
    """
    return train(load(config, context.args))


def train(config: Config) -> int:
    """Train one configuration; return 0, or 75 when a signal stopped it.

    Raises: ScenestoreError: training cannot start or go on.
    """
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed_memory()
    import torch

    from models.compute import join_world, memory_errors, pick_device  # loads torch

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    folder = RunFolder(Path(config.run.folder))
    advice = "Lower --data.batch_size (and raise --optim.accumulate)"
    with join_world(config.run.device) as world, contextlib.ExitStack() as held:
        device = pick_device(config.run.device, world)
        with memory_errors(device, f"{advice} and run again; {folder.last} is kept."):
            return train_rank(config, folder, world, device, held)


def train_rank(
    config: Config,
    folder: RunFolder,
    world: World,
    device: torch.device,
    held: contextlib.ExitStack,
) -> int:
    """Train on one rank; ``held`` keeps the lock of the run folder until all ranks have ended."""
    import torch

    from models.training import Stopped, Trainer  # loads torch

    resume = folder.checkpoint(config.run.resume)
    data = open_data(config)
    random.seed(config.run.seed)
    np.random.seed(config.run.seed)
    # unlike use_deterministic_algorithms, it does not load the compiler, which is not used
    torch.set_deterministic_debug_mode("error" if config.run.deterministic else "default")
    torch.backends.cudnn.benchmark = not config.run.deterministic
    if config.run.amp == "none":  # cuDNN would compute recurrent layers in TF32
        torch.backends.cudnn.allow_tf32 = False
    model = make_model(config, data).to(device)
    if world.size > 1 and device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not getattr(model, "learns", True):
        if world.first:
            held.enter_context(folder.lock())
            _evaluate_once(config, folder, data, model, device)
        return 0
    torch.manual_seed(config.run.seed + world.rank)  # ranks draw different dropout masks
    trainer = Trainer(config, data, model, world, device)
    if resume is not None:
        trainer.restore(resume)
    if world.first:
        held.enter_context(folder.lock())
        here = resume is not None and resume.parent.resolve() == folder.path.resolve()
        folder.prepare(config, data.store, data.codebook, resumed=here)
        weights = sum(value.numel() for value in model.parameters())
        pairs = len(data.store.caption_rows(config.data.train))
        _say(
            f"{config.model.name}: {weights / 1e6:.1f} M weights, {pairs:,} pairs in "
            f"{trainer.steps_per_epoch:,} steps an epoch, {trainer.total:,} steps, {device}"
            + (f" x {world.size}" if world.size > 1 else "")
            + (f", resuming at step {trainer.at.step}" if resume else "")
        )
    try:
        at = trainer.fit()
    except Stopped:
        if world.first:
            _say(f"stopped by a signal at step {trainer.at.step}; run the same command to resume.")
        return STOPPED
    if world.first:
        _say(
            f"done: best rsum {at.best:.1f} on {config.data.val} at step {at.best_step}: "
            f"{folder.best}"
        )
        _suggest(config, data)
    return 0


def _suggest(config: Config, data: Data) -> None:
    """Write what to run next with a finished run."""
    store, folder = config.data.store, config.run.folder
    split = "test" if "test" in data.store.splits else config.data.val
    next_steps(["evaluate", folder, "--store", store, "--split", split], ["report", store, folder])


def _evaluate_once(
    config: Config, folder: RunFolder, data: Data, model: Any, device: torch.device
) -> None:
    """Evaluate a model that has no weights to train, and write a run folder like any other."""
    from models.training import save_best  # loads torch

    folder.prepare(config, data.store, data.codebook, resumed=False)
    found = data.evaluate(model, device)
    assert found is not None  # one process alone is the first rank
    MetricsFile(folder.metrics).add(step=0, epoch=0, kind="val", **dict(found))
    metadata = run_metadata(
        config, model.options, data.keys, data.codebook, step=0, epoch=0, rsum=found.rsum
    )
    save_best(folder.best, model, metadata)
    _say(
        f"{config.model.name} is not trained: rsum {found.rsum:.1f} on {config.data.val}: "
        f"{folder.path}"
    )
    _suggest(config, data)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    app.run()
