"""Where models compute: devices, ranks, and the codes that are passed between them."""

from models.compute.codes import code_bytes, join, pick
from models.compute.device import memory_errors, pick_device
from models.compute.distributed import World, average_gradients, global_loss, join_world

__all__ = [
    "World",
    "average_gradients",
    "code_bytes",
    "global_loss",
    "join",
    "join_world",
    "memory_errors",
    "pick",
    "pick_device",
]
