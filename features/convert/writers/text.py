"""Write captions and tables: CoNLL-U, COCO's captions JSON, Parquet."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from features.convert.writers.outputs import Outputs, of_splits
from features.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from features.store import Store

_FIELDS = ("form", "lemma", "upos", "xpos", "deprel")
_TABLES = {
    "images": "image_id",
    "captions": "caption_id",
    "objects": "object_lemma",
    "attributes": "attribute",
    "relations": "relation_predicate",
    "visual_objects": "labels",
    "visual_relations": "predicates",
}
"""Table -> a column that it needs in the store."""


def _caption_rows(store: Store, splits: list[str] | None) -> list[tuple[str, str, int]]:
    """Return (id, text, row) of the captions of some splits, in row order."""
    table = of_splits(store, store.captions, splits)
    return list(zip(table["id"], table["text"], table["row"], strict=True))


def export_conllu(store: Store, out: Outputs, splits: list[str] | None) -> list[str]:
    """Write parsed captions as CoNLL-U, one block per sentence; return notes.

    ``sent_id`` is the caption's id, with ``-2`` and so on for further sentences of a caption.
    Captions without tokens are left out and counted. The format requires trees with one root: any
    other token without a head becomes a ``dep`` of the root, and such captions are counted.

    Raises: UsageError: the store has no parsed captions.
    """
    if not store.has("form"):
        raise UsageError(f"{store.path}: no parsed captions; build the stage tokens.")
    offsets, heads = store.offsets("token_offsets"), store.column("head")
    columns = {name: store.coded(name) for name in _FIELDS}
    empty = changed = 0
    with out.path().open("w", encoding="utf-8") as file:
        for caption_id, text, row in _caption_rows(store, splits):
            span = slice(int(offsets[row]), int(offsets[row + 1]))
            local = heads[span].tolist()
            empty += not local
            fields = [
                [_cell(column.names[code]) for code in column.codes[span].tolist()]
                for column in columns.values()
            ]
            starts, whole = sentence_trees(local)
            changed += whole != local
            for number, start in enumerate(starts, 1):
                stop = starts[number] if number < len(starts) else len(local)
                suffix = f"-{number}" if number > 1 else ""
                file.write(f"# sent_id = {_line(caption_id)}{suffix}\n# text = {_line(text)}\n")
                for at in range(start, stop):
                    form, lemma, upos, xpos, deprel = (field[at] for field in fields)
                    head = whole[at] - start + 1 if whole[at] >= 0 else 0
                    if whole[at] != local[at]:
                        deprel = "dep" if head else "root"
                    cells = (at - start + 1, form, lemma, upos, xpos, "_", head, deprel, "_", "_")
                    file.write("\t".join(map(str, cells)) + "\n")
                file.write("\n")
    notes = [f"{empty} captions have no tokens and were left out."] if empty else []
    if changed:
        notes.append(f"{changed} captions are not trees in the store; their heads were changed.")
    return notes


def sentence_trees(heads: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the first token of each sentence, and heads that make each sentence a tree.

    A sentence ends where no edge crosses. The first token of a cycle becomes a root, and further
    roots of a sentence become children of the root with the most children.

    >>> sentence_trees([1, -1, 1, 4, -1])
    ([0, 3], [1, -1, 1, 4, -1])
    >>> sentence_trees([1, 3, -1, -1, 3, 5])  # two roots in a sentence, a token as its own head
    ([0, 5], [1, 3, 3, -1, 3, -1])
    """
    whole = list(heads)
    for token in range(len(whole)):
        at, passed = token, {-1}
        while at not in passed:
            passed.add(at)
            at = whole[at]
        if at >= 0:
            whole[at] = -1
    reach = list(range(len(whole)))  # the last token of any edge that starts or ends here
    for token, head in enumerate(whole):
        if head >= 0:
            low = min(token, head)
            reach[low] = max(reach[low], token, head)
    starts, end = [], -1
    for token, last in enumerate(reach):
        if token > end:
            starts.append(token)
        end = max(end, last)
    for start, stop in itertools.pairwise([*starts, len(whole)]):
        roots = [at for at in range(start, stop) if whole[at] < 0]
        main = max(roots, key=whole[start:stop].count)  # the first of several
        for at in roots:
            whole[at] = -1 if at == main else main
    return starts, whole


def _line(text: str) -> str:
    return " ".join(text.split()).encode("utf-8", "replace").decode()


def _cell(text: str) -> str:
    return _line(text) or "_"


def export_coco_captions(store: Store, out: Outputs, splits: list[str] | None) -> list[str]:
    """Write images and captions in COCO's captions schema; return notes.

    Ids in COCO are integers. Ids of the store that are distinct integers are kept; otherwise rows
    are used. ``image_name`` and ``caption_name`` always have the ids of the store.
    """
    captions = _caption_rows(store, splits)
    images = of_splits(store, store.images, splits)
    keep_images = _are_numbers(images["id"].tolist())
    keep_captions = _are_numbers([key for key, _, _ in captions])
    number = {
        row: int(key) if keep_images else row
        for key, row in zip(images["id"], images["row"].tolist(), strict=True)
    }
    document = {
        "info": {"description": str(store.manifest["dataset"]), "version": store.hash},
        "images": [
            {
                "id": number[image["row"]],
                "file_name": image["file"] or image["id"],
                "width": image["width"],
                "height": image["height"],
                "split": image["split"],
                "image_name": image["id"],
            }
            for image in images.to_dict("records")
        ],
        "annotations": [
            {
                "id": int(key) if keep_captions else int(row),
                "image_id": number[image],
                "caption": text,
                "caption_name": key,
            }
            for (key, text, row), image in zip(
                captions,
                store.image_of_caption([row for *_, row in captions]).tolist(),
                strict=True,
            )
        ],
    }
    out.path().write_text(json.dumps(document), encoding="utf-8")
    if keep_images:
        return []
    return ["Image ids are not distinct integers: rows are used, see image_name."]


def _are_numbers(ids: list[str]) -> bool:
    """Return whether ids are distinct integers of 64 bits (7 and 007 are not distinct)."""
    if not all(key.isascii() and key.isdigit() and len(key) <= 18 for key in ids):
        return False
    return len({int(key) for key in ids}) == len(ids)


def export_parquet(store: Store, out: Outputs, splits: list[str] | None) -> list[str]:
    """Write a folder with a Parquet file for each table of the store; return notes.

    Raises: MissingDependency: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # optional
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency.of("pyarrow", "Parquet", "pip install pyarrow") from error
    names = [name for name, column in _TABLES.items() if store.has(column)]
    paths = {name: out.path(f"{name}.parquet") for name in names}
    for name in set(_TABLES) - set(names):
        out.absent(f"{name}.parquet")  # it would have rows of another store
    for name, path in paths.items():
        table = of_splits(store, store.table(name), splits)
        made = pa.Table.from_pandas(table, preserve_index=False)
        origin = {b"scenestore": store.hash.encode()}
        pq.write_table(made.replace_schema_metadata({**made.schema.metadata, **origin}), path)
    left = sorted(set(_TABLES) - set(names))
    return [f"Not in this store: {', '.join(left)}."] if left else []
