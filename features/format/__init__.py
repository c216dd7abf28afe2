"""The format on disk: schema, content keys, shards, groups and store manifests."""

from features.format.build import build_store
from features.format.codec import (
    MAX_WIDTH,
    decode_texts,
    pack_index,
    pack_regions,
    pack_text,
    pack_tokens,
    pack_visual,
    sentence_starts,
    unpack_index,
    unpack_tokens,
)
from features.format.files import (
    closing,
    folder_lock,
    partial_path,
    publish,
    read_sealed,
    replacing,
    sweep,
    sync_file,
    unreadable,
    write_errors,
    write_sealed,
)
from features.format.group import Group, GroupManifest, read_group
from features.format.hash_cache import HashCache
from features.format.hdf5 import (
    REPAIR,
    hash_rest,
    lay_out,
    open_file,
    read_into,
    read_part,
    record_of,
)
from features.format.keys import (
    KEY_DIGITS,
    canonical_json,
    content_key,
    folder_name,
    hash_file,
    hash_json,
)
from features.format.manifest import (
    bind_store,
    check_binding,
    read_store_manifest,
    store_manifest_path,
)
from features.format.photo_file import Photo, read_photos, write_photos
from features.format.record import Part
from features.format.schema import GROUPS, ROLES, Columns, find_column, shard_ranges, shard_rows
from features.format.shard import Shard

__all__ = [
    "GROUPS",
    "KEY_DIGITS",
    "MAX_WIDTH",
    "REPAIR",
    "ROLES",
    "Columns",
    "Group",
    "GroupManifest",
    "HashCache",
    "Part",
    "Photo",
    "Shard",
    "bind_store",
    "build_store",
    "canonical_json",
    "check_binding",
    "closing",
    "content_key",
    "decode_texts",
    "find_column",
    "folder_lock",
    "folder_name",
    "hash_file",
    "hash_json",
    "hash_rest",
    "lay_out",
    "open_file",
    "pack_index",
    "pack_regions",
    "pack_text",
    "pack_tokens",
    "pack_visual",
    "partial_path",
    "publish",
    "read_group",
    "read_into",
    "read_part",
    "read_photos",
    "read_sealed",
    "read_store_manifest",
    "record_of",
    "replacing",
    "sentence_starts",
    "shard_ranges",
    "shard_rows",
    "store_manifest_path",
    "sweep",
    "sync_file",
    "unpack_index",
    "unpack_tokens",
    "unreadable",
    "write_errors",
    "write_photos",
    "write_sealed",
]
