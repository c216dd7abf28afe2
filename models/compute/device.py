"""Choose the device of a rank, and report when its memory is exhausted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from features.errors import TrainingError, UsageError
from models.compute.distributed import World


def pick_device(name: str, world: World) -> torch.device:
    """Return the device of this rank. Raises: UsageError: no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"run.device {name!r} is not a device. Use auto, cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"run.device is {name!r}, but torch finds no CUDA device. Use cpu.")
        if ":" not in name:
            device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"run.device {name!r} is not supported. Use auto, cpu, cuda or cuda:N.")
    return device


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def memory_errors(device: torch.device, advice: str) -> Iterator[None]:
    """Turn out-of-memory errors of torch and numpy into a TrainingError that ends in ``advice``."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:  # torch 2.4 has no other name
        raise _out_of_memory(device, error, advice) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # on a CPU, torch has no class for it
            raise
        raise _out_of_memory(device, error, advice) from error


def _out_of_memory(device: torch.device, error: Exception, advice: str) -> TrainingError:
    detail = str(error).partition("DefaultCPUAllocator: ")[2] or str(error)
    message = " ".join(detail.split())
    sentences = ". ".join(message.split(". ")[:2])
    return TrainingError(f"out of memory on {device}: {sentences.rstrip('.')}. {advice}")
