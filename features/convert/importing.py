"""A foreign file becomes a store: index, visual, regions and, where it has them, tokens.

One shard at a time is read and written, so the size of the source does not matter. Shards that are
already there under the same key are kept: a broken import goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from features.convert.captions import NO_SPLIT, CaptionSet, check_entries, read_captions
from features.convert.formats import open_source
from features.convert.import_groups import ImportPlan, fingerprint, need_space
from features.convert.import_images import ImageReader
from features.convert.source import Source, id_forms
from features.errors import InputError, ScenestoreError, UsageError
from features.format.codec import pack_index, pack_tokens
from features.format.group import Group, read_group
from features.format.keys import hash_file
from features.format.manifest import bind_store, read_store_manifest
from features.format.schema import shard_ranges
from features.names import bad_file, bad_split
from features.records import ImageEntry, TextGraph
from features.store import open_store

__all__ = ["ImportReport", "import_store"]

_NAME = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*")  # what bind_store takes, after all is read
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@runtime_checkable
class _HasImages(Protocol):
    def images(self) -> list[ImageEntry]: ...


@runtime_checkable
class _HasTokens(Protocol):
    def tokens(self) -> dict[str, TextGraph] | None: ...


@runtime_checkable
class _HasClose(Protocol):
    def close(self) -> None: ...


@dataclass(slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        manifest: the store manifest.
        images, captions: how many are in the store.
        skipped: (image id, reason) of images without detections; they stay in the index.
        notes: duplicates, torn lines, cut boxes and whatever else a user should know.
    """

    manifest: Path
    images: int
    captions: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_store(
    format_name: str,
    source_path: Path | str,
    store_dir: Path | str,
    *,
    name: str | None = None,
    captions: str | Path | Sequence[str | Path] | None = None,
    images_dir: Path | str | None = None,
    split: str = NO_SPLIT,
    max_objects: int = 36,
    max_relations: int | None = None,
    dtype: str = "float16",
    on_error: str = "fail",
    extras: Mapping[str, str] | None = None,
) -> ImportReport:
    """Import a foreign file into a store.

    Args:
        format_name: a key of ``IMPORT_FORMATS``.
        source_path: the file or folder.
        store_dir: where the store goes; other data sets and variants there are not touched.
        name: name of the data set, the format's name when not given.
        captions: what ``read_captions`` takes; its images, in its order, are the rows. Without it
            the rows are the images of the source, with the captions that the source has.
        images_dir: folder of photos, for image sizes that the source does not know.
        split: split of all images when neither captions nor source say.
        max_objects: K, boxes kept per image.
        max_relations: R, 25 when not given, 1 (empty) where the source has no relations.
        dtype: float16 or float32, of the features.
        on_error: ``fail``, or ``skip``: an image that cannot be read is named in the store.
        extras: more files of the format.

    Raises:
        InputError, FeatureOverflow: the source is broken; file, image and column are named.
        WriteError: the store cannot be written, or the disk has too little space for it; finished
            shards are kept.
    """
    if on_error not in ("fail", "skip"):
        raise UsageError(f"on_error is 'fail' or 'skip', not {on_error!r}.")
    if max_objects < 1 or (max_relations is not None and max_relations < 1):
        raise UsageError("max_objects and max_relations must be at least 1.")
    if dtype not in ("float16", "float32"):
        raise UsageError(f"features can be stored as float16 or float32, not {dtype!r}.")
    if name and not _NAME.fullmatch(name):
        raise UsageError(f"--name {name!r}: use letters, digits, '.', '_' and '-'.")
    if reason := bad_split(split):
        raise UsageError(f"--split: {reason}; exports name files after it.")
    store_dir = Path(store_dir)
    with contextlib.ExitStack() as stack:
        source = open_source(format_name, source_path, extras)
        if isinstance(source, _HasClose):
            stack.callback(source.close)
        relations = max_relations or (25 if "relations" in source.brings else 1)
        listed = _listed(source, captions, split, on_error)
        entries = list(listed.entries)
        keys, notes = _source_ids(source, listed)
        reader = ImageReader(source, keys, max_objects, relations, dtype, on_error, images_dir)
        inputs = {"source": fingerprint(source.files)}
        if listed.files:
            by_content = len(listed.files) == 1 and not listed.by_name
            inputs["captions"] = (
                hash_file(listed.files[0]) if by_content else fingerprint(listed.files)
            )
        plan = ImportPlan(store_dir, shard_ranges(len(entries)), inputs)
        # the same file can be given as one extra or as another, and means something else then
        named = sorted(extras or {})
        parameters: dict[str, object] = {"format": format_name, "split": split, "extras": named}
        index = plan.group("index", parameters)
        plan.write(index, lambda rows: pack_index([entries[row] for row in rows]))
        groups = {"index": index.folder}
        groups |= _write_images(plan, reader, entries, parameters, index.folder)
        graphs = source.tokens() if isinstance(source, _HasTokens) and captions is None else None
        if graphs is not None:
            groups["tokens"] = _write_tokens(plan, graphs, entries, parameters, index.folder)
        # notes count what was read: where every shard was there, the manifest still knows them
        known = None if reader.n_read else _known_notes(store_dir, groups)
        notes = [*notes, *source.notes, *reader.notes()] if known is None else known
        if known is None and reader.n_read < len(entries):
            notes.append("Images that an earlier, broken import stored are not in these counts.")
    n_captions = sum(len(entry.captions) for entry in entries)
    summary = {
        "imported from": format_name,
        "images": len(entries),
        "captions": n_captions,
        "notes": notes,
    }
    manifest = bind_store(store_dir, name or format_name, groups, summary)
    skipped = list(open_store(manifest).skipped.items())
    return ImportReport(manifest, len(entries), n_captions, skipped, notes)


def _known_notes(store_dir: Path, groups: Mapping[str, Path]) -> list[str] | None:
    """Return the notes of an earlier import of the same groups, None where there was none."""
    folders = {name: folder.name for name, folder in groups.items()}
    for path in sorted(store_dir.glob("*.json")):
        with contextlib.suppress(ScenestoreError):
            document = read_store_manifest(path)
            found = {name: entry["folder"] for name, entry in document["groups"].items()}
            notes = document.get("summary", {}).get("notes")
            if found == folders and isinstance(notes, list):
                return notes
    return None


def _write_images(
    plan: ImportPlan,
    reader: ImageReader,
    entries: list[ImageEntry],
    parameters: Mapping[str, object],
    index: Path,
) -> dict[str, Path]:
    """Write the visual group and, where the source has features, the regions; return folders."""
    limits = {**parameters, **reader.parameters(entries)}
    groups = {"visual": plan.group("visual", limits)}
    if "features" in reader.source.brings:
        groups["regions"] = plan.group("regions", {**limits, "dtype": reader.dtype})
    gaps: dict[int, list[Group]] = {}
    for group in groups.values():
        for number in group.missing(plan.ranges):
            gaps.setdefault(number, []).append(group)
    sizes = reader.image_bytes() if gaps else {}
    need_space(
        plan.store_dir,
        sum(
            len(plan.ranges[number]) * sizes.get(group.name, 0)
            for number, missing in gaps.items()
            for group in missing
        ),
    )
    for number, missing in sorted(gaps.items()):
        rows = plan.ranges[number]
        found = [reader.read(entries[row]) for row in rows]
        for group in missing:
            ids = [entries[row].id for row in rows]
            group.write(number, rows, reader.pack(group.name, ids, found))
    for group in groups.values():
        group.finish(len(plan.ranges), index=read_group(index).image_index)
    return {name: group.folder for name, group in groups.items()}


def _write_tokens(
    plan: ImportPlan,
    graphs: Mapping[str, TextGraph],
    entries: list[ImageEntry],
    parameters: Mapping[str, object],
    index: Path,
) -> Path:
    """Write the tokens group; return its folder."""
    tokens = plan.group("tokens", parameters)
    plan.write(
        tokens,
        lambda rows: pack_tokens([graphs[c.id] for row in rows for c in entries[row].captions]),
        read_group(index).image_index,
    )
    return tokens.folder


def _listed(
    source: Source,
    captions: str | Path | Sequence[str | Path] | None,
    split: str,
    on_error: str,
) -> CaptionSet:
    """Return the images that become the rows, with their captions.

    Raises: InputError: there is none, or one cannot be stored.
    """
    if captions is not None:
        return read_captions(captions, on_error=on_error)
    where = getattr(source, "path", "source")
    if isinstance(source, _HasImages):
        listed = check_entries(source.images(), where, on_error=on_error)
    else:
        # An id may be a path on another machine: no photo is looked up under such an id.
        listed = CaptionSet(
            tuple(
                ImageEntry(
                    key, key if key.lower().endswith(_SUFFIXES) and not bad_file(key) else "", split
                )
                for key in source.ids()
            )
        )
    if not listed.entries:
        raise InputError(f"{where}: no image in it.")
    return listed


def _source_ids(source: Source, listed: CaptionSet) -> tuple[dict[str, str], list[str]]:
    """Return the id of each row's image in the source, where it has the image, and notes.

    Raises: InputError: no image is in the source, or two images would be the same one.
    """
    notes: list[str] = []
    if listed.dropped:
        key, reason = listed.dropped[0]
        notes.append(f"{len(listed.dropped)} captions or images were skipped: {key}: {reason} ...")
    if not listed.files:
        return {entry.id: entry.id for entry in listed.entries}, notes
    known = dict.fromkeys(source.ids())
    keys: dict[str, str] = {}
    for entry in listed.entries:
        # the source may know an image by its folder and name, as val2014/1.jpg
        forms = (*id_forms(entry.id), *id_forms(entry.file))
        if found := [form for form in forms if form in known]:
            keys[entry.id] = found[0]
    where = ", ".join(map(str, listed.files[:3]))
    if not keys:
        raise InputError(
            f"{where}: none of its images is in the source; the captions know "
            f"{id_forms(listed.entries[0].id)}, the source {list(known)[:3]}."
        )
    if len(set(keys.values())) < len(keys):
        raise InputError(f"{where}: two of its images have the same features.")
    if rest := len(known) - len(keys):
        notes.append(f"{rest} images of the source have no captions and were left out.")
    return keys, notes
