"""The training loop; a resumed run repeats an uninterrupted one bit by bit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from features.commands import Progress, note
from features.errors import MismatchError, TrainingError
from features.format import replacing
from models.compute import ALONE, Exchange, World, average_gradients, memory_errors
from models.configuration import Config, from_dict, to_dict
from models.registry import reads_unions
from models.training.checkpoint import (
    load_best,
    load_last,
    load_optimizer,
    load_weights,
    rng_state,
    save_best,
    save_last,
    set_rng_state,
    state_errors,
)
from models.training.data import Data
from models.training.lineage import (
    check_metadata,
    check_resumable,
    differences,
    run_metadata,
)
from models.training.logs import Events, MetricsFile, Speed
from models.training.negatives import negative_hinge
from models.training.optim import (
    clip_gradients,
    load_average,
    make_average,
    make_optimizer,
    rate_factor,
    set_rate,
)
from models.training.run import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from features.batches import CaptionBatch, ImageBatch

    Ints = npt.NDArray[np.int64]


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


@dataclasses.dataclass
class Position:
    """Progress of a run: all that a checkpoint needs besides weights and optimiser."""

    step: int = 0  # optimiser steps taken
    epoch: int = 0  # current epoch, from 0
    pairs: int = 0  # pairs of the current epoch used so far, over all ranks
    best: float = -1.0  # best rsum on the validation split
    best_step: int = 0
    worse: int = 0  # evaluations since the best one


class Trainer:
    """One training run on this rank.

    Args:
        config: the configuration.   data: store, codebook and splits.
        model: on its device.   world: this process among the ranks.   device: where to compute.
    """

    def __init__(
        self, config: Config, data: Data, model: nn.Module, world: World, device: torch.device
    ) -> None:
        self.config, self.data, self.world, self.device = config, data, world, device
        self.model: Any = model
        self.folder = RunFolder(Path(config.run.folder))
        self.optimizer = make_optimizer(model, config.optim)
        self.average = make_average(model, config.optim.ema) if config.optim.ema else None
        kind = config.run.amp
        if kind == "auto":
            kind = "bf16" if device.type == "cuda" else "none"
        self.half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind)
        self.scaler = torch.amp.GradScaler(device.type, enabled=kind == "fp16")
        self.at = Position()
        self.losses: list[Tensor] = []  # since the last row of metrics.csv
        self.clusters: Tensor | None = None  # of the images, for this epoch's neighbours
        self.speed = Speed()
        accumulate = config.optim.accumulate
        self.batches = data.batches_per_epoch(world.size)
        self.steps_per_epoch = -(-self.batches // accumulate)
        self.total = config.run.epochs * self.steps_per_epoch
        if config.run.max_steps:
            self.total = min(self.total, config.run.max_steps)
        self.stop_requested = False
        self.origin = self.folder  # whose state was restored

    def fit(self) -> Position:
        """Train to the end and return the final position.

        Raises:
            Stopped: SIGTERM or SIGUSR1 was received; the run is saved.
            TrainingError: the loss is not finite.
            WriteError: a checkpoint cannot be written.
        """
        first = self.world.first
        if first:
            self.metrics = MetricsFile(
                self.folder.metrics, self.at.step or None, before=self.origin.metrics
            )
        self.events = Events(
            self.folder.path / "events" if self.config.run.tensorboard and first else None,
            self.at.step,
        )
        if self.at.step == 0:
            self.save()  # an error then always leaves a checkpoint
        if first and self.at.best >= 0 and not self.folder.best.exists():
            with replacing(self.folder.best, read_only=True) as partial:
                shutil.copyfile(self.origin.best, partial)
        patience = self.config.run.patience
        with (
            self.events,
            _signals(self),
            Progress(
                self.folder.path.name,
                "steps",
                self.total,
                self.at.step,
                stream=sys.stdout,
                quiet=not first,
            ) as self.progress,
        ):
            while self.at.step < self.total and not (patience and self.at.worse >= patience):
                self._epoch()
            if self.at.best < 0:  # a finished run whose best weights are lost
                self._evaluate()
                self.save()
        return self.at

    def _epoch(self) -> None:
        """Train from the current position to the end of the epoch or of the run."""
        config = self.config
        self._cluster()
        stream = self.data.train_batches(
            self.at.epoch,
            self.at.pairs,
            self.world,
            unions=reads_unions(self.model),
            clusters=self.clusters,
        )
        done = self.at.pairs // config.data.batch_size
        if hasattr(self.model, "hard_negatives"):
            hard = self.model.options.hard_negatives
            self.model.hard_negatives = hard and self.at.epoch >= config.schedule.easy_epochs
        iterator = iter(stream)
        self.speed.reset()
        while done < self.batches and self.at.step < self.total:
            group = min(config.optim.accumulate, self.batches - done)
            self._step(iterator, group)
            done += group
            at = self.at
            at.step += 1
            if self.device.type == "cpu":  # on a GPU, reading the loss would block
                self._check_losses()
            at.pairs += group * config.data.batch_size
            if done == self.batches:
                at.epoch, at.pairs = at.epoch + 1, 0
            if at.step % config.run.log_steps == 0 or at.step == self.total:
                self._log()
            self._after_step(epoch_ended=at.pairs == 0)
            if config.run.patience and at.worse >= config.run.patience:
                return

    def _cluster(self) -> None:
        """Cluster the images by the weights at the start of an epoch with neighbours."""
        if self.config.data.neighbours_by == "regions" or not self.data.has_neighbours(
            self.at.epoch
        ):
            self.clusters = None
        elif self.at.pairs == 0 or self.clusters is None:
            first = self.world.first
            found = self.data.clusters(self.model, self.at.epoch) if first else None
            self.clusters = self.world.share(found)

    def _after_step(self, *, epoch_ended: bool) -> None:
        run, at = self.config.run, self.at
        due = epoch_ended and at.epoch % run.eval_epochs == 0
        due = due or bool(run.eval_steps and at.step % run.eval_steps == 0) or at.step == self.total
        if due:
            self._evaluate()
        if due or epoch_ended or (run.save_steps and at.step % run.save_steps == 0):
            self.save()
        often = self.world.size == 1 or at.step % 10 == 0
        if often and self.world.agree(self.stop_requested, self.device):
            if not due:
                self.save()
            raise Stopped

    def _step(self, stream: Iterator[Any], group: int) -> None:
        """Take one optimiser step from ``group`` batches."""
        optim = self.config.optim
        factor = rate_factor(self.config.schedule, self.at.step, self.steps_per_epoch, self.total)
        rate = optim.lr * factor
        set_rate(self.optimizer, rate)
        self.model.train()
        if hasattr(self.model, "set_step"):
            self.model.set_step(self.at.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for _ in range(group):
            start = time.perf_counter()
            images, captions = next(stream)
            self.speed.add(len(captions.rows) * self.world.size, time.perf_counter() - start)
            stand_in = not len(captions.rows)  # no pair for this rank in the epoch's last batch
            if stand_in:
                images, captions = self.data.stand_in
            false = self.data.draw_negatives(captions.rows.numpy(), self.at.epoch)
            images, captions = images.to(self.device), captions.to(self.device)
            amp = torch.autocast(self.device.type, self.half, enabled=self.half is not None)
            with amp:
                if optim.global_negatives:
                    exchange = Exchange(self.world, captions.rows, stand_in=stand_in)
                    loss = self.model.loss(images, captions, exchange)
                else:
                    loss = self.model.loss(images, captions, ALONE) * (0 if stand_in else 1)
                if false is not None and optim.negatives_weight:
                    loss = loss + self._false_loss(images, captions, *false) * (not stand_in)
            loss = loss / group
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        average_gradients(self.model, self.world)
        if optim.clip:
            clip_gradients(self.model, optim.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.losses.append(total)
        note = f"{self.speed.pairs_per_s:,.0f} pairs/s, loader wait {self.speed.loader_wait:.0%}"
        if self.device.type == "cpu":
            note = f"loss {float(total):.4f}, {note}"
        self.progress.advance(note=f"epoch {self.at.epoch + 1}, {note}{self._gpu_note()}")

    def _false_loss(
        self, images: ImageBatch, captions: CaptionBatch, false: CaptionBatch, position: Ints
    ) -> Tensor:
        """Return the weighted hinge loss on negatives of the captions at ``position``."""
        optim = self.config.optim
        rows = torch.from_numpy(position).to(self.device)
        own = images.index(rows), captions.index(rows), false.to(self.device)
        loss = optim.negatives_weight * negative_hinge(self.model, *own, optim.negatives_margin)
        # with global negatives the mean over the ranks must be the sum over the whole batch
        return loss * self.world.size if optim.global_negatives else loss

    def _check_losses(self) -> list[float]:
        """Return the losses since the last row. Raises: TrainingError: one is not finite."""
        values: list[float] = torch.stack(self.losses).tolist() if self.losses else []
        for place, value in enumerate(values):
            if value != value or value in (float("inf"), float("-inf")):
                step = self.at.step - len(values) + place + 1
                raise TrainingError(
                    f"the loss is {value} near step {step} (epoch {self.at.epoch + 1}). "
                    f"{self.folder.last} is from an earlier step. "
                    "Lower --optim.lr, raise --schedule.warmup_steps or lower --optim.clip."
                )
        return values

    def _log(self) -> None:
        values = self._check_losses()
        self.losses.clear()
        values = [
            sum(ranks) / len(ranks) for ranks in zip(*self.world.collect(values), strict=True)
        ]
        loss = sum(values) / len(values)
        rate = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["scale"]
        if not self.world.first:
            return
        row = {"loss": loss, "lr": rate, "pairs_per_s": round(self.speed.pairs_per_s, 1)}
        row["loader_wait"] = round(self.speed.loader_wait, 4)
        if self.device.type == "cuda":
            row["gpu_mib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20)
        self.metrics.add(step=self.at.step, epoch=self.at.epoch, kind="train", **row)
        self.events.add("train", self.at.step, row)
        self.speed.reset()

    def _gpu_note(self) -> str:
        if self.device.type != "cuda":
            return ""
        return f", {torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB"

    def _epochs(self) -> str:
        """Return the epochs trained so far; parts of one count, such as 0.4 or 3.5."""
        return f"{round(self.at.step / self.steps_per_epoch, 2):g}"

    def _evaluate(self) -> None:
        """Score the validation split; save the weights if they are the best so far."""
        at = self.at
        model = self.average.module if self.average else self.model
        advice = f"Lower --data.eval_batch_size and run again; {self.folder.last} is kept."
        with memory_errors(self.device, advice):
            found = self.data.evaluate(model, self.device, self.world)
        rsum = self.world.share(found.rsum if found else 0.0)
        better = rsum > at.best
        if better:
            at.best, at.best_step, at.worse = rsum, at.step, 0
            if self.world.first:
                position = {"step": at.step, "epoch": at.epoch, "rsum": rsum}
                metadata = run_metadata(
                    self.config, model.options, self.data.keys, self.data.codebook, **position
                )
                save_best(self.folder.best, model, metadata)
        else:
            at.worse += 1
        if found is not None:
            self.metrics.add(step=at.step, epoch=at.epoch, kind="val", **dict(found))
            self.events.add("val", at.step, found)
            recalls = [f"{found[f'{way}_r{k}']:.1f}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
            self.progress.say(
                f"{self.folder.path.name}: epoch {self._epochs()} step {at.step}: "
                f"rsum {rsum:.1f} on {self.config.data.val} "
                f"(i2t {' '.join(recalls[:3])}, t2i {' '.join(recalls[3:])})"
                + (", the best so far" if better else f", best {at.best:.1f} at {at.best_step}")
            )
        self.speed.reset()

    def save(self) -> None:
        """Write last.pt; all ranks must call it together.

        Raises: TrainingError: a weight is not finite. WriteError: the file cannot be written.
        """
        self._check_losses()
        finite = torch.stack([value.isfinite().all() for value in self.model.parameters()]).all()
        if not bool(finite):
            raise TrainingError(
                f"a weight is not finite after step {self.at.step}. "
                f"{self.folder.last} is from an earlier step. Lower --optim.lr."
            )
        states = self.world.collect(rng_state(self.device))
        if not self.world.first:
            return
        save_last(
            self.folder.last,
            {
                "config": to_dict(self.config),
                "keys": self.data.resume_keys,
                "codebook": self.data.codebook.digest,
                "position": dataclasses.asdict(self.at),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "clusters": self.clusters,
                "losses": torch.stack(self.losses).cpu() if self.losses else torch.zeros(0),
                "rng": states,
            },
        )

    def restore(self, path: Path) -> None:
        """Load a saved state.

        Raises: MissingInput, TrainingError, MismatchError, ConfigError: it cannot be resumed.
        """
        state = load_last(path)
        check_resumable(state, self.config, self.data.resume_keys, path)
        if state.get("codebook", self.data.codebook.digest) != self.data.codebook.digest:
            raise MismatchError(
                f"{path} was trained with another codebook than {self.folder.codebook}. Restore "
                "the codebook of the run, use another --run.folder, or --run.resume never."
            )
        with state_errors(path):
            load_weights(self.model, state["model"], str(path))
            load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None and state["average"]:
                load_average(self.average, state["average"])
            self.clusters = state.get("clusters")  # missing in files of earlier versions
            self.losses = list(state["losses"].to(self.device))
            self.at = self._position(state["position"])
            if len(state["rng"]) == self.world.size:
                set_rng_state(state["rng"][self.world.rank], self.device)
            else:  # another number of ranks: new, but repeatable random numbers
                torch.manual_seed(hash((self.config.run.seed, self.at.step, self.world.rank)))
        self.origin = RunFolder(path.parent)
        self._find_best(path)

    def _position(self, saved: dict[str, Any]) -> Position:
        """Return a saved position. Raises: ValueError: it cannot be one of this run."""
        at, size = Position(**saved), self.config.data.batch_size
        counts: list[Any] = [at.step, at.epoch, at.pairs, at.best_step, at.worse]
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError(f"position {saved}")
        done = at.epoch * self.steps_per_epoch + -(
            -(at.pairs // size) // self.config.optim.accumulate
        )
        if at.step != done or at.best_step > done or at.pairs % size:
            raise ValueError(f"position {saved}")
        if not math.isfinite(at.best):
            raise ValueError(f"best rsum {at.best}")
        return at

    def _find_best(self, path: Path) -> None:
        """Make sure that the best weights so far, of which a saved state knows, are there.

        Those beside a state that is resumed in another folder are copied by ``fit``. Without them,
        the best weights from here on will be kept.

        Raises: TrainingError, MismatchError: best.safetensors is damaged or of another run.
        """
        if self.at.best < 0:
            return
        own, beside = self.folder.best, self.origin.best
        if own.exists():
            if not self._is_best(own):
                raise MismatchError(
                    f"{own}: not the best weights of {path} (rsum {self.at.best:.1f} at step "
                    f"{self.at.best_step}). Restore the file, or delete it to keep the best "
                    "weights from here on."
                )
        elif not (beside.exists() and self._is_best(beside)):
            self.at.best, self.at.best_step, self.at.worse = -1.0, 0, 0
            if self.world.first:
                note(f"{own} is missing: the best weights from here on will be kept.")

    def _is_best(self, path: Path) -> bool:
        """Return True if weights are the best ones of this run so far.

        A run that was killed can have better ones of a later step, which it will repeat.
        """
        _, found = load_best(path)
        check_metadata(found, path)
        if any(differences(from_dict(found["config"], str(path)), self.config)):
            return False
        if found["keys"] != self.data.keys:
            return False
        place = (found.get("step"), found.get("rsum"))
        return place == (self.at.best_step, self.at.best) or found["step"] > self.at.step


@contextlib.contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """Stop after the current step on SIGTERM or SIGUSR1."""

    def request(number: int, frame: object) -> None:
        trainer.stop_requested = True

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, request) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
