"""Generate the format page: ``python -m features.format.page > docs/format.md``."""

from __future__ import annotations

import sys

from features.format.schema import FORMAT_NAME, FORMAT_VERSION, GROUPS, ROLES, Column

__all__ = ["format_page"]

_HEAD = """# The format on disk

Generated from `features/format/schema.py` by `python -m features.format.page > docs/format.md`;
tests check that this page is up to date and that its example runs. Format `{name}`, version
{version}. The format version is independent of the package version; a reader rejects newer ones.

## Files

```
STORE/
  latest.json                     name of the store manifest that `open_store(STORE)` opens
  <data set>-<key12>.json         store manifest: one variant of each group, same image rows
  <group>-<key12>/                one variant of a group; never changed once finished
    00000.h5  00000.json  ...     shards and their sidecars
    manifest.json                 written last; a group without it is unfinished
```

- `key12` is the first 12 digits of the content key, a sha256 over the stage, its version, its
  parameters and the keys of its inputs. Other parameters give another folder beside the first.
- A group can be bound under a second name such as `regions@clip`, a variant:
  `store.column(name, variant="clip")`.
- Shard k of every group holds the same image rows. The number of images per shard is the power of
  two next to images / 32, at least 64 and at most 4096; only the last shard is shorter.
- Files are written as `*.partial`, flushed with fsync and renamed, and are read-only.
- JSON files are canonical UTF-8 (sorted keys, no spaces; unpaired surrogates as in WTF-8) and
  sealed: their last key, `seal`, is the sha256 of all bytes before `,"seal"`.

## Sidecar and group manifest

A sidecar (`kind` "shard") has `group`, `key`, `number`, `row0`, `rows` (images), `size` (bytes of
the file), `head` (CRC-32 of the bytes before the first dataset), `rest` (sha256 of all bytes
outside the datasets, in order) and `columns`: dataset -> `offset` (byte in the file), `shape`,
`dtype`, `sha256` of its bytes.

A group manifest (`kind` "group") has the same items for all shards, one list per field: `shards`
(`rows`, `size`, `head`, `rest`) and `columns`: dataset -> `dtype`, row `shape`, and per shard
`length`, `offset`, `sha256`. It also has `hash` (of all contents), `index` (hash of the image ids
whose rows the group follows) and `params` (parameters and provenance, for information).

Damage is detected as follows. Every JSON file is checked against its seal when it is read. For a
shard, the size and `head` are checked when the file is mapped, `rest` before the first row is read,
and every column that is read into memory (text, codes, offsets, captions) against its own `sha256`.
Rows of large columns are not hashed again on every read; `python -m features verify` reads
everything and finds a changed byte there.

## HDF5

Every dataset is contiguous, little-endian and unfiltered; datasets of 4096 bytes or more are
page-aligned. Bytes can therefore be mapped or read at `offset` without HDF5. The attributes of the
file are `format`, `format_version`, `group` and `key`; every group and dataset has `encoding-type`
and `encoding-version`. A column has one of these kinds:

| kind | in HDF5 | meaning |
| --- | --- | --- |
| dense | dataset `NAME` | (rows, ...) numbers |
| offsets | dataset `NAME` | rows + 1 ascending int64 from 0; row i has values `[i]` to `[i + 1]` |
| text | `NAME/bytes`, `NAME/offsets` | UTF-8 bytes and their offsets |
| coded | `NAME/codes`, `NAME/names/bytes`, `NAME/names/offsets` | int32 rows of a text column |

Offsets and codes are local to their shard: every shard has its own sorted table of strings.

K is the maximum number of objects per image, R of relations, and D the width of a feature. Boxes
are xyxy float32 in pixels of the image after EXIF rotation. Roles: {roles}.
"""

_EXAMPLE = '''
## Reading a store with h5py alone

```python
import json, pathlib, sys
import h5py

folder, row = pathlib.Path(sys.argv[1]), int(sys.argv[2])
name = json.loads((folder / "latest.json").read_text())["manifest"]
store = json.loads((folder / name).read_text())

def shard(group, row):
    """Return the opened shard that holds an image row, and the row within it."""
    place = folder / store["groups"][group]["folder"]
    number = 0
    for rows in json.loads((place / "manifest.json").read_text())["shards"]["rows"]:
        if row < rows:
            return h5py.File(place / f"{number:05d}.h5", "r"), row
        row, number = row - rows, number + 1

def text(column, i):
    start, stop = column["offsets"][i], column["offsets"][i + 1]
    return column["bytes"][start:stop].tobytes().decode()

def coded(column, i):
    return [text(column["names"], code) for code in column["codes"][i].ravel()]

index, at = shard("index", row)
first, last = index["caption_offsets"][at], index["caption_offsets"][at + 1]
visual, _ = shard("visual", row)
n, m = visual["num_objects"][at], visual["num_relations"][at]
words = coded(visual["predicates"], at)
tokens, _ = shard("tokens", row)
ends = tokens["token_offsets"][first : last + 1]
regions, _ = shard("regions", row)
print(json.dumps({
    "image": text(index["image_id"], at),
    "captions": [text(index["caption"], i) for i in range(first, last)],
    "labels": coded(visual["labels"], at)[:n],
    "relations": [[int(s), p, int(o)] for (s, o), p in zip(visual["relations"][at][:m], words)],
    "tokens": [coded(tokens["form"], slice(a, b)) for a, b in zip(ends, ends[1:])],
    "first feature": regions["object_features"][at][0].astype(float).tolist(),
}))
```
'''


def format_page() -> str:
    """Return ``docs/format.md`` as text."""
    roles = ", ".join(f"{code} {name}" for code, name in enumerate(ROLES))
    lines = [_HEAD.format(name=FORMAT_NAME, version=FORMAT_VERSION, roles=roles)]
    for group in GROUPS.values():
        lines += [f"## Group `{group.name}`", "", group.doc, ""]
        lines += ["| column | kind | dtype | rows | row shape | meaning |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [_row(column) for column in group.columns]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n" + _EXAMPLE


def _row(column: Column) -> str:
    allowed = next(iter(column.parts().values()))
    dtype = {"text": "UTF-8", "coded": "string"}.get(column.kind, " or ".join(allowed))
    shape = ", ".join(map(str, column.shape)) or "-"
    doc = column.doc.replace('""', "empty")
    rows = f"{column.axis}, + 1" if column.kind == "offsets" else column.axis
    return f"| `{column.name}` | {column.kind} | {dtype} | {rows} | {shape} | {doc} |"


if __name__ == "__main__":
    sys.stdout.write(format_page())
