"""Training on several ranks: process group, gathered codes and scores, averaged gradients.

Under ``torchrun`` every rank gets some of the pairs of a batch. With global negatives the ranks
exchange the *codes* of their images and captions, score their own images against all captions and
exchange the rows of the score matrix, so that each computes the loss of the whole batch. Every
exchange is differentiable: its backward pass sums the gradients of all ranks. Since all ranks have
the same loss, the mean of their parameter gradients is the gradient of that loss, as if one process
had seen the whole batch, however the pairs are divided. In the last step of an epoch a rank may
have no pair; it takes part with a stand-in that is left out of the loss.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from features.errors import ScenestoreError, TrainingError
from models.compute.codes import pick, rebuild

Code = TypeVar("Code", bound=tuple[Tensor, ...])

# How long ranks wait for each other, for example while the first one computes recalls and writes.
WAIT_MINUTES = 60


@dataclass(frozen=True)
class World:
    """This process among the ranks; one process alone is rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Return whether ``flag`` is true on any rank; all ranks must call it together."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)], device=device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def share(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        box = [value if self.first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join_world(device_name: str) -> Iterator[World]:
    """Join the process group that ``torchrun`` describes in the environment, if there is one.

    Args:
        device_name: ``run.device``; runs on a CPU communicate over gloo, on CUDA over nccl.

    Raises: TrainingError: the other ranks do not answer, or one of them has failed.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World()
        return
    world = World(
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
        int(os.environ.get("LOCAL_RANK", "0")),
    )
    cuda = device_name.startswith("cuda") or (device_name == "auto" and torch.cuda.is_available())
    # This module's functions have the group as a default argument, and the first optimiser imports
    # it. Imported later than here it would keep the group and its threads alive beyond
    # destroy_process_group below, and those can abort an interpreter that shuts down.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        # score matrices and Python objects are exchanged on the CPU, whatever the gradients use
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=WAIT_MINUTES))
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"rank {world.rank} could not join the process group: {message}"
        ) from error
    try:
        yield world
        dist.barrier()  # wait for the others before closing connections
    except RuntimeError as error:
        if isinstance(error, ScenestoreError) or not _is_about_peers(error):
            raise
        raise TrainingError(
            f"rank {world.rank}: another rank has failed; see its own message "
            f"({' '.join(str(error).split())[:120]}). The last checkpoint is kept."
        ) from error
    finally:
        dist.destroy_process_group()


def _is_about_peers(error: RuntimeError) -> bool:
    """Return whether an exchange failed; gloo raises plain RuntimeErrors."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    message = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in message for word in words)


class _Gather(torch.autograd.Function):
    """Concatenate the rows of all ranks; the gradient is the sum of the gradients on all ranks."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:
        """Return the rows of all ranks; parts are padded to the largest count for the exchange."""
        ctx.counts, ctx.rank = counts, rank
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([one[:n] for one, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the summed gradient of this rank's rows."""
        whole = grads[0].contiguous().clone()
        dist.all_reduce(whole)
        start = sum(ctx.counts[: ctx.rank])
        return whole[start : start + ctx.counts[ctx.rank]], None, None


def gather_rows(parts: Code, world: World) -> Code:
    """Return a code with the rows of all ranks, in rank order, with gradients.

    Ranks may have different numbers of rows and different widths (padded with zeros).
    """
    if world.size == 1:
        return parts
    sizes = [size for part in parts for size in part.shape]
    own = torch.tensor(sizes, device=parts[0].device)
    everyone = [torch.empty_like(own) for _ in range(world.size)]
    dist.all_gather(everyone, own)
    shapes = torch.stack(everyone).tolist()  # [rank][axes of all parts, one after the other]
    whole: list[Tensor] = []
    first = 0
    for part in parts:
        mine = [shape[first : first + part.dim()] for shape in shapes]
        first += part.dim()
        counts = tuple(shape[0] for shape in mine)
        widths = [max(axis) for axis in zip(*(shape[1:] for shape in mine), strict=True)]
        wide = part.new_zeros(part.shape[0], *widths)
        wide[(slice(None), *(slice(size) for size in part.shape[1:]))] = part
        exchanged = wide.to(torch.uint8) if part.dtype is torch.bool else wide
        rows: Tensor = _Gather.apply(  # type: ignore[no-untyped-call]
            exchanged, counts, world.rank
        )
        whole.append(rows.to(part.dtype))
    return rebuild(parts, whole)


class Exchange:
    """Codes and scores of a whole batch whose pairs are divided among ranks.

    The ``loss`` of a model uses it to get what one process alone would have computed, with
    gradients. ``Exchange()`` is for a batch that is not divided, and exchanges nothing.

    Args:
        world: this process among the ranks.
        rows: (B,) any tensor with a row for each pair of this rank; at least one.
        stand_in: this rank has no pair. The one it was given is encoded, so that all ranks take
            part in every exchange, and then dropped (batch normalisation does see it).
    """

    def __init__(
        self, world: World | None = None, rows: Tensor | None = None, *, stand_in: bool = False
    ) -> None:
        self.world = World()
        if world is not None and rows is not None and world.size > 1:
            self.world, self.count = world, 0 if stand_in else len(rows)
            (ranks,) = gather_rows((torch.full_like(rows, world.rank)[: self.count],), world)
            start = int((ranks < world.rank).sum())
            # Models cannot score zero images: without a pair, score the first and drop the row.
            self.own = slice(start, start + self.count) if self.count else slice(0, 1)

    def gather(self, code: Code) -> Code:
        """Return the code of all pairs, given that of this rank's pairs."""
        if self.world.size == 1:
            return code
        return gather_rows(pick(code, slice(self.count)), self.world)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of all pairs, given those of this rank's pairs."""
        return self.gather((tensor,))[0]

    def scores(self, model: Any, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Return the scores of all images and captions; each rank computes its images' rows."""
        code = (
            self.gather(model.encode_images(images)),
            self.gather(model.encode_captions(captions)),
        )
        if self.world.size > 1:
            code = pick(code[0], self.own), code[1]
        scores: Tensor = model.score(*code)
        return self.rows(scores)


ALONE = Exchange()


def average_gradients(model: nn.Module, world: World) -> None:
    """Replace every gradient by its mean over the ranks, in one exchange per dtype.

    A gradient that is missing on some ranks counts as 0 there; missing on all, it stays missing.
    """
    if world.size == 1:
        return
    parameters = [value for value in model.parameters() if value.requires_grad]
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for value in parameters:
        groups.setdefault(value.dtype, []).append(value)
    for members in groups.values():
        has = torch.tensor([float(p.grad is not None) for p in members]).to(members[0])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        flat = torch.cat([has, *(grad.reshape(-1) for grad in grads)])
        dist.all_reduce(flat)
        anywhere = (flat[: len(members)] > 0).tolist()
        at = len(members)
        for parameter, seen in zip(members, anywhere, strict=True):
            mean = flat[at : at + parameter.numel()].view_as(parameter) / world.size
            at += parameter.numel()
            if seen:
                parameter.grad = mean.clone() if parameter.grad is None else mean
