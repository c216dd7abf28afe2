"""Where models compute: devices, ranks, and the codes that are passed between them."""

from models.compute.codes import code_bytes, join, pick
from models.compute.device import device_name, memory_errors, pick_device
from models.compute.distributed import (
    ALONE,
    Exchange,
    World,
    average_gradients,
    join_world,
)

__all__ = [
    "ALONE",
    "Exchange",
    "World",
    "average_gradients",
    "code_bytes",
    "device_name",
    "join",
    "join_world",
    "memory_errors",
    "pick",
    "pick_device",
]
