"""Keep a store in order: list, verify, repair, and delete unreferenced groups."""

from features.maintenance.gc import IDLE_HOURS, collect, find_garbage
from features.maintenance.summary import (
    describe_item,
    describe_store,
    item_lines,
    list_stores,
    store_lines,
)
from features.maintenance.verify import (
    group_folders,
    last_verified,
    store_manifests,
    verify_store,
)

__all__ = [
    "IDLE_HOURS",
    "collect",
    "describe_item",
    "describe_store",
    "find_garbage",
    "group_folders",
    "item_lines",
    "last_verified",
    "list_stores",
    "store_lines",
    "store_manifests",
    "verify_store",
]
