"""Several processes, one training step: who am I, gathered codes, averaged gradients.

Run under ``torchrun`` every rank sees its share of a batch. With global negatives the ranks
exchange the *codes* of their images and captions, score their own images against all captions,
exchange the rows of the score matrix, and so all know the loss of the whole batch. Each exchange
is differentiable: its backward pass adds up what all ranks' losses say about a value. As every
rank holds the same loss, the average over ranks of the parameters' gradients is exactly the
gradient of that loss, as if one process had seen the whole batch, however the pairs are shared. A
rank without a pair in the last step of an epoch takes part with a stand-in that counts for nothing.
"""

from __future__ import annotations

import dataclasses
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

__all__ = ["World", "average_gradients", "gather_rows", "global_loss", "join_world"]

Code = TypeVar("Code", bound=tuple[Tensor, ...])

# How long ranks wait for each other: uneven shares of an evaluation, and what the first rank alone
# computes and writes.
WAIT_MINUTES = 60


@dataclass(frozen=True)
class World:
    """This process among its peers; one process alone is rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Return whether any rank says yes; all ranks must ask at the same time."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)], device=device)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes.item())

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
    """Join the process group that ``torchrun`` announces in the environment, if it did.

    Args:
        device_name: ``run.device``; a CPU run talks over gloo, a CUDA run over nccl.

    Raises: TrainingError: the peers do not answer, or one of them is gone.
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
    # Its functions have the group as a default argument. The first optimiser imports it: with a
    # group by then, that would outlive destroy_process_group below, its threads with it, and those
    # may abort an interpreter that is closing down.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        # score matrices and messages stay on the CPU, whatever the gradients travel over
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=WAIT_MINUTES))
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise TrainingError(f"rank {world.rank} could not join its peers: {message}") from error
    try:
        yield world
        dist.barrier()  # nobody hangs up while another one still talks
    except RuntimeError as error:
        if isinstance(error, ScenestoreError) or not _is_about_peers(error):
            raise
        raise TrainingError(
            f"rank {world.rank}: a peer is gone, whose own message says why "
            f"({' '.join(str(error).split())[:120]}). The last checkpoint is kept."
        ) from error
    finally:
        dist.destroy_process_group()


def _is_about_peers(error: RuntimeError) -> bool:
    """Say whether an exchange failed; gloo raises plain RuntimeErrors."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in words)


class _Gather(torch.autograd.Function):
    """Concatenate all ranks' rows; the gradient of own rows is the sum over the ranks' losses."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:
        """Return the rows of all ranks; parts are padded to the largest count for the exchange."""
        ctx.counts, ctx.rank = counts, rank
        most = max(counts)
        padded = part.new_zeros(most, *part.shape[1:])
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

    Ranks may hold different numbers of rows and different padded widths (padded with zeros).
    """
    if world.size == 1:
        return parts
    sizes = [size for part in parts for size in part.shape]
    told = torch.tensor(sizes, device=parts[0].device)
    everyone = [torch.empty_like(told) for _ in range(world.size)]
    dist.all_gather(everyone, told)
    shapes = torch.stack(everyone).tolist()  # [rank][axis of each part, one after the other]
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
    return _rebuilt(parts, whole)


def global_loss(
    model: nn.Module,
    images: ImageBatch,
    captions: CaptionBatch,
    world: World,
    *,
    stand_in: bool = False,
) -> Tensor:
    """Return the model's loss over the batches of all ranks, the same value on every rank.

    For the time of the call the model's encoders return everybody's codes, and its ``score``
    computes the rows of this rank's images only and exchanges them. Whatever else the model's
    ``loss`` does, it does with the whole batch. Models that are made of several models, and score
    with each, are treated part by part.

    Args:
        model: what ``loss`` belongs to.   images, captions: this rank's pairs; at least one.
        world: this process among its peers.
        stand_in: this rank has no pair: what it was given is encoded, so that all ranks do the
            same exchanges, and left out (statistics of batch normalisation do see it).
    """
    compute: Any = model.loss
    if world.size == 1:
        alone: Tensor = compute(images, captions)
        return alone
    mine = 0 if stand_in else len(captions.rows)
    (ranks,) = gather_rows((torch.full_like(captions.rows, world.rank)[:mine],), world)
    start = int((ranks < world.rank).sum())
    # a score of no image at all is nothing that models know: the first one's is dropped again
    own = slice(start, start + mine) if mine else slice(0, 1)
    inside = False  # an exchange must not happen twice when one part calls another

    def exchanged(function: Any, change: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args)
            inside = True
            try:
                return change(function, *args)
            finally:
                inside = False

        return call

    def encode(function: Any, batch: Any) -> Any:
        code = function(batch)
        return gather_rows(_first(code, mine), world)

    def score(function: Any, image_code: Any, caption_code: Any) -> Tensor:
        rows = function(_rebuilt(image_code, [part[own] for part in image_code]), caption_code)
        whole: Tensor = gather_rows((rows[:mine],), world)[0]
        return whole

    everyone = dataclasses.replace(
        captions, image_rows=gather_rows((captions.image_rows[:mine],), world)[0]
    )
    names = {"encode_images": encode, "encode_captions": encode, "score": score}
    parts = [part for part in model.modules() if all(hasattr(part, name) for name in names)]
    try:
        for part in parts:
            for name, change in names.items():
                object.__setattr__(part, name, exchanged(getattr(part, name), change))
        loss: Tensor = compute(images, everyone)
        return loss
    finally:
        for part in parts:
            for name in names:
                object.__delattr__(part, name)


def _first(code: Code, count: int) -> Code:
    return _rebuilt(code, [part[:count] for part in code])


def _rebuilt(code: Code, parts: list[Tensor]) -> Code:
    """Return the parts as what the code is: a named or a plain tuple."""
    kind = type(code)
    return kind(parts) if kind is tuple else kind(*parts)


def average_gradients(model: nn.Module, world: World) -> None:
    """Replace every gradient by its mean over the ranks, in one exchange per dtype.

    A parameter without a gradient on every rank keeps none; on some ranks only, it counts as 0.
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
