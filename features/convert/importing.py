"""Import a foreign file into a store: index, visual, regions and, if it has them, tokens.

One shard at a time is read and written, so the size of the source does not matter. Shards that
exist under the same key are kept: an interrupted import continues where it stopped.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from features.convert.captions import (
    NO_SPLIT,
    CaptionSet,
    check_entries,
    parse_shares,
    read_captions,
)
from features.convert.formats import open_source
from features.convert.import_images import ImageReader
from features.convert.photos import Photos
from features.convert.source import Source, id_forms
from features.decoding import SUFFIXES
from features.errors import InputError, ScenestoreError, UsageError, WriteError
from features.format import (
    Columns,
    Group,
    GroupManifest,
    bind_store,
    content_key,
    hash_file,
    hash_items,
    pack_index,
    pack_tokens,
    read_store_manifest,
    shard_ranges,
    sweep,
    write_errors,
)
from features.names import bad_file, bad_split
from features.records import ImageEntry
from features.store import open_store

IMPORT_VERSION = "3"
"""Part of every key; increase it when the same source gives other columns."""

_NAME = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*")  # bind_store takes no other, but comes last


@dataclass(slots=True)
class ImportReport:
    """The result of an import.

    Attributes:
        manifest: the store manifest.
        images, captions: how many are in the store.
        skipped: (image id, reason) of images without detections; they stay in the index.
        notes: duplicates, torn lines, dropped boxes and whatever else a user should know.
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
    split_by: str = "",
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
        store_dir: folder of the store; other data sets and variants in it are not touched.
        name: name of the data set; None for the name of the format.
        captions: what ``read_captions`` takes. Its images, in its order, are the rows. Without it
            the rows are the images of the source, with the captions that the source has.
        images_dir: folder of photos, for image sizes that the source lacks.
        split: split of all images if neither captions nor source have one.
        split_by: shares such as ``80/10/10``, by which images without a split get one.
        max_objects: K, boxes kept per image.
        max_relations: R; None for 25, or 1 (empty) if the source has no relations.
        dtype: float16 or float32, of the features.
        on_error: ``fail``; or ``skip``, to list images that cannot be read in the store.
        extras: further files of the format.

    Raises:
        InputError, FeatureOverflow: the source is broken; the message names file, image, column.
        WriteError: the store cannot be written, or its disk has too little free space; finished
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
        raise UsageError(f"--split: {reason}; exports use it in file names.")
    store_dir = Path(store_dir)
    with contextlib.closing(open_source(format_name, source_path, extras)) as source:
        relations = max_relations or (25 if "relations" in source.provides else 1)
        listed = _listed(source, captions, split, split_by, on_error)
        keys, notes = _source_ids(source, listed)
        photos = None if images_dir is None else Photos(images_dir)
        reader = ImageReader(source, keys, max_objects, relations, dtype, on_error, photos)
        inputs = {"source": _fingerprint(source.files)}
        if listed.files:
            inputs["captions"] = _contents(listed)
        # named, because a file can be given as one extra or as another
        parameters = {"format": format_name, "split": split, "extras": sorted(extras or {})}
        parameters |= {"split_by": split_by} if split_by else {}
        plan = _Plan(store_dir, listed.entries, parameters, inputs)
        index = plan.write(plan.group("index"), pack_index)
        groups = {"index": index.folder}
        groups |= _write_images(plan, reader, index.image_index)
        if captions is None and (graphs := source.tokens()) is not None:
            tokens = plan.write(
                plan.group("tokens"),
                lambda entries: pack_tokens([graphs[c.id] for e in entries for c in e.captions]),
                index.image_index,
            )
            groups["tokens"] = tokens.folder
        # notes count what was read; if nothing was, an earlier manifest has them
        known = None if reader.n_read else _known_notes(store_dir, groups)
        notes = [*notes, *source.notes, *reader.notes()] if known is None else known
        if known is None and reader.n_read < len(listed.entries):
            notes.append("Images that an interrupted import stored are not in these counts.")
    summary = {
        "imported from": format_name,
        "images": len(listed.entries),
        "captions": listed.n_captions,
        "notes": notes,
    }
    manifest = bind_store(store_dir, name or format_name, groups, summary)
    skipped = list(open_store(manifest).skipped.items())
    return ImportReport(manifest, len(listed.entries), listed.n_captions, skipped, notes)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The images of an import in row order, where they go, and what makes the keys.

    Attributes:
        store_dir: folder of the store.
        entries: the images.
        parameters: options that change the contents of every group.
        inputs: name -> hash of each input.
    """

    store_dir: Path
    entries: Sequence[ImageEntry]
    parameters: Mapping[str, object]
    inputs: Mapping[str, str]

    @property
    def ranges(self) -> list[range]:
        """Image rows of every shard."""
        return shard_ranges(len(self.entries))

    def group(self, name: str, parameters: Mapping[str, object] | None = None) -> Group:
        """Return the variant of one group; partial files of dead imports are deleted."""
        group = Group.of(
            self.store_dir,
            name,
            IMPORT_VERSION,
            {**self.parameters, **(parameters or {})},
            self.inputs,
            stage=f"import-{name}",
        )
        sweep(group.folder)
        return group

    def write(
        self, group: Group, pack: Callable[[Sequence[ImageEntry]], Columns], index: str = ""
    ) -> GroupManifest:
        """Write the missing shards of a group, then its manifest.

        Args:
            group: the group.
            pack: images of a shard -> its columns.
            index: ``image_index`` of the index that the group follows, "" for the index itself.
        """
        for number in group.missing(self.ranges):
            rows = self.ranges[number]
            group.write(number, rows, pack(self.entries[rows.start : rows.stop]))
        return group.finish(len(self.ranges), index=index)


def _fingerprint(files: Iterable[Path]) -> str:
    """Return one hash of the names and contents of files, in their order."""
    paths = list(files)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(hash_file, paths))
    inputs = {
        f"{at} {path.name}": digest
        for at, (path, digest) in enumerate(zip(paths, hashes, strict=True))
    }
    return content_key("import-source", IMPORT_VERSION, {}, inputs)


def _contents(listed: CaptionSet) -> str:
    """Return one hash of images and captions; how they were stored does not matter."""
    return hash_items(
        [e.id, e.file, e.split, [[c.id, c.text] for c in e.captions]] for e in listed.entries
    )


def _need_space(folder: Path, wanted: int) -> None:
    """Check that the disk of a folder, which need not exist yet, has enough free space.

    Images without boxes are stored as zeros, so a small file can become a large store.

    Raises: WriteError: it has not; the message gives both sizes.
    """
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    with write_errors(folder):
        free = shutil.disk_usage(there).free
    if wanted > free:
        raise WriteError(
            f"{folder}: the store needs {wanted / 1e6:,.1f} MB, the disk has {free / 1e6:,.1f} MB "
            "free. Free some space, or take fewer boxes: --max-objects."
        )


def _known_notes(store_dir: Path, groups: Mapping[str, Path]) -> list[str] | None:
    """Return the notes of an earlier import of the same groups, None if there is none."""
    folders = {name: folder.name for name, folder in groups.items()}
    for path in sorted(store_dir.glob("*.json")):
        with contextlib.suppress(ScenestoreError):
            document = read_store_manifest(path)
            found = {name: entry["folder"] for name, entry in document["groups"].items()}
            notes = document.get("summary", {}).get("notes")
            if found == folders and isinstance(notes, list):
                return notes
    return None


def _write_images(plan: _Plan, reader: ImageReader, index: str) -> dict[str, Path]:
    """Write the visual group and, if the source has features, the regions; return folders."""
    limits = reader.parameters(plan.entries)
    groups = [plan.group("visual", limits)]
    if "features" in reader.source.provides:
        groups.append(plan.group("regions", {**limits, "dtype": reader.dtype}))
    gaps: dict[int, list[Group]] = {}
    for group in groups:
        for number in group.missing(plan.ranges):
            gaps.setdefault(number, []).append(group)
    sizes = reader.image_bytes() if gaps else {}
    _need_space(
        plan.store_dir,
        sum(
            len(plan.ranges[k]) * sizes[group.name] for k, found in gaps.items() for group in found
        ),
    )
    for number, missing in sorted(gaps.items()):
        rows = plan.ranges[number]
        entries = plan.entries[rows.start : rows.stop]
        images = [reader.read(entry) for entry in entries]
        for group in missing:
            group.write(number, rows, reader.pack(group.name, entries, images))
    for group in groups:
        group.finish(len(plan.ranges), index=index)
    return {group.name: group.folder for group in groups}


def _listed(
    source: Source,
    captions: str | Path | Sequence[str | Path] | None,
    split: str,
    split_by: str,
    on_error: str,
) -> CaptionSet:
    """Return the images that become the rows, with their captions.

    Raises: InputError: there is none, or one cannot be stored.
    """
    if captions is not None:
        return read_captions(captions, on_error=on_error, split_by=split_by)
    entries = source.images()
    if entries is None:
        # An id may be a path on another machine: no photo is looked up under such an id.
        files = {key: key.lower().endswith(SUFFIXES) and not bad_file(key) for key in source.ids()}
        entries = [ImageEntry(key, key if known else "", split) for key, known in files.items()]
    shares = parse_shares(split_by) if split_by else None
    listed = check_entries(entries, source.path, on_error=on_error, shares=shares)
    if not listed.entries:
        raise InputError(f"{source.path}: no image in it.")
    return listed


def _by_number(source: Source, listed: CaptionSet) -> dict[str, str]:
    """Return the source's id of each image where that is the ``imgid`` of Karpathy's JSON.

    SCAN's and vse_infty's Flickr30k are numbered so. The captions of both must agree, because any
    list of numbers would fit.

    Raises: InputError: the numbers fit, the captions do not.
    """
    entries = source.images() if source.numbered else None
    texts = {entry.id: _letters(entry) for entry in entries or ()}
    keys = {
        entry.id: listed.numbers[entry.id]
        for entry in listed.entries
        if listed.numbers.get(entry.id) in texts
    }
    agree = [not _letters(e).isdisjoint(texts[keys[e.id]]) for e in listed.entries if e.id in keys]
    if sum(agree) < 0.9 * len(agree):
        raise InputError(
            f"{source.path}: its images are numbered, and {len(agree) - sum(agree)} of "
            f"{len(agree)} have other captions than the images with these numbers as imgid. Pass "
            "the captions file that the numbers belong to."
        )
    return keys


def _letters(entry: ImageEntry) -> set[str]:
    """Return the captions of an image without case, white space and punctuation."""
    return {re.sub(r"\W", "", caption.text).casefold() for caption in entry.captions}


def _source_ids(source: Source, listed: CaptionSet) -> tuple[dict[str, str], list[str]]:
    """Return the source's id of each image that the source has, and notes.

    Raises: InputError: the source has none of the images, or two of them would be the same one.
    """
    notes: list[str] = []
    if listed.dropped:
        key, reason = listed.dropped[0]
        notes.append(f"{listed.n_dropped} captions or images were skipped: {key}: {reason} ...")
    if not listed.files:
        return {entry.id: entry.id for entry in listed.entries}, notes
    known = dict.fromkeys(source.ids())
    found = {entry.id: source.find(entry.id, entry.file) for entry in listed.entries}
    keys = {image_id: key for image_id, key in found.items() if key is not None}
    where = ", ".join(map(str, listed.files[:3]))
    if not keys and (keys := _by_number(source, listed)):
        notes.append("The source numbers its images: they were found by the imgid of the captions.")
    if not keys:
        raise InputError(
            f"{where}: the source has none of these images; the captions name them "
            f"{id_forms(listed.entries[0].id)}, the source {list(known)[:3]}."
        )
    if len(set(keys.values())) < len(keys):
        raise InputError(f"{where}: two of its images have the same features.")
    if rest := len(known) - len(keys):
        notes.append(f"{rest} images of the source have no captions and were left out.")
    return keys, notes
