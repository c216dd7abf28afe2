"""Which device a rank computes on, and what is said when its memory is not enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from features.errors import TrainingError, UsageError
from models.compute.distributed import World

__all__ = ["memory_errors", "pick_device"]


def pick_device(name: str, world: World) -> torch.device:
    """Return the device of this rank. Raises: UsageError: there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"run.device {name!r} is no device; use auto, cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"run.device is {name!r}, but torch sees no CUDA device; use cpu.")
        if ":" not in name:
            device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"run.device {name!r} is not supported; use auto, cpu, cuda or cuda:N.")
    return device


@contextlib.contextmanager
def memory_errors(device: torch.device, advice: str) -> Iterator[None]:
    """Turn what torch and numpy raise without memory into a TrainingError that ends in advice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(device, error, advice) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # a CPU without memory has no class of its own
            raise
        raise _out_of_memory(device, error, advice) from error


def _out_of_memory(device: torch.device, error: Exception, advice: str) -> TrainingError:
    said = " ".join(str(error).partition("DefaultCPUAllocator: ")[2].split() or str(error).split())
    sentences = ". ".join(said.split(". ")[:2])
    return TrainingError(f"out of memory on {device}: {sentences.rstrip('.')}. {advice}")
