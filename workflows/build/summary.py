"""The summary at the end of a build: counts, times, skipped images and the path of the store."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from features.commands import command_line
from features.errors import StoreError
from features.format import read_group, read_store_manifest, store_manifest_path
from features.maintenance import last_verified
from features.reading import GroupReader
from pipeline.vision import describe_missing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from features.format import GroupManifest
    from workflows.build.plan import Plan

STAGES = {
    "index": "images and captions",
    "visual": "scene graphs",
    "regions": "region features",
    "tokens@ud": "parses (UD)",
    "tokens": "tokens",
    "text": "triplets",
}


def count_store(plan: Plan) -> dict[str, Any]:
    """Return the counts of a built store, and the seconds and bytes of each stage."""
    groups = {name: read_group(group.folder) for name, group in plan.groups().items()}
    visual = GroupReader(groups["visual"]) if "visual" in groups else None
    reasons = Counter(
        reason for reason in (visual.coded("skipped").tolist() if visual else []) if reason
    )
    skipped = sum(reasons.values())
    captions = sum(len(entry.captions) for entry in plan.entries)
    return {
        "images": len(plan.entries) - skipped,
        "captions": captions,
        "splits": dict(Counter(entry.split for entry in plan.entries)),
        "objects": int(visual.dense("num_objects").sum()) if visual else 0,
        "relations": int(visual.dense("num_relations").sum()) if visual else 0,
        **count_text(groups["text"]),
        "skipped": skipped,
        "skipped_reasons": dict(reasons.most_common(20)),
        "missing": len(plan.missing),
        "dropped": groups["index"].params.get("about", {}).get("n_dropped", 0),
        "bytes": {name: sum(group.sizes) for name, group in groups.items()},
        "seconds": {
            name: group.params.get("built", {}).get("seconds", 0.0)
            for name, group in groups.items()
        },
    }


def count_text(group: GroupManifest) -> dict[str, int]:
    """Return the number of objects, attributes and triplets in the captions."""
    text = GroupReader(group)
    return {
        "text_objects": int(text.offsets("object_offsets")[-1]),
        "attributes": int(text.offsets("attribute_offsets")[-1]),
        "triplets": int(text.offsets("relation_offsets")[-1]),
    }


def describe_build(
    plan: Plan, path: Path, document: Mapping[str, Any], present: Mapping[str, bool]
) -> str:
    """Return the summary that a build prints.

    Args:
        plan: the plan of the build.
        path: the store manifest.   document: its contents.
        present: group -> True if it existed before this run.
    """
    found: Mapping[str, Any] = document["summary"]
    images, captions = found["images"], found["captions"]
    splits = ", ".join(f"{name} {count:,}" for name, count in found["splits"].items())
    lines = [f"{plan.options.dataset}: {images:,} images ({splits}), {captions:,} captions"]
    if plan.options.has_graphs:
        objects, relations = (found[name] / max(images, 1) for name in ("objects", "relations"))
        lines.append(
            f"  scene graphs  {found['objects']:,} objects, {found['relations']:,} relations: "
            f"{objects:.1f} objects and {relations:.1f} relations per image"
        )
    lines.append(
        f"  text graphs   {found['text_objects']:,} objects, {found['attributes']:,} attributes, "
        f"{found['triplets']:,} triplets: {found['triplets'] / max(captions, 1):.1f} per caption"
    )
    if plan.missing:
        reason = describe_missing(plan.missing)
        if not plan.detector.needs_pixels:
            names = ", ".join(plan.missing[:5]) + (", ..." if len(plan.missing) > 5 else "")
            reason = f"{len(plan.missing):,} images without detections or file: {names}"
        lines.append(f"  left out      {reason}")
    if found["dropped"]:
        named = "; ".join(f"{item}: {why}" for item, why in plan.caption_set.dropped[:3])
        lines.append(f"  left out      {found['dropped']:,} captions or images: {named}")
    if found["skipped"]:
        reasons = "; ".join(f"{why} ({n})" for why, n in list(found["skipped_reasons"].items())[:3])
        lines.append(f"  skipped       {found['skipped']:,} images: {reasons}")
    if excluded := plan.excluded:
        many = f"{len(excluded):,} of these" if len(excluded) > 1 else "one of these"
        lines.append(
            f"  excluded      {many}, because a plug-in failed; --on-error fail tries every image"
        )
    if plan.options.has_graphs:
        built = read_group(plan.visual.folder).params.get("built", {})
        corrected = {what: count for what, count in built.items() if what.startswith("boxes ")}
        lines += [f"  corrected     {count:,} {what}" for what, count in corrected.items() if count]
    lines.append(f"  {'stage':<22}{'':<10}{'seconds':>8}{'size':>12}")
    for name, label in STAGES.items():
        if name in document["groups"]:
            reused = present.get(name, True)
            seconds = "-" if reused else f"{found['seconds'][name]:,.1f}"
            state, size = "reused" if reused else "built", _size(found["bytes"][name])
            lines.append(f"    {label:<20}{state:<10}{seconds:>8}{size:>12}")
    if all(present.values()):
        lines.append("  nothing to build: every stage was up to date")
        lines.append(f"  {_verified(plan.store_dir)}")
    lines.append(f"  store {path}")
    lines.append(f"  key {document['key'][:12]}  hash {document['hash'][:12]}")
    lines += _next_steps(plan, found)
    return "\n".join(lines) + "\n"


def _next_steps(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Return commands that a user may want next."""
    folder = plan.store_dir
    steps: list[list[object]] = [["show", folder]]
    if plan.options.has_graphs:
        images = ["--images-dir", plan.options.images_dir] if plan.has_files else []
        steps.append(["report", folder, *images])
        if {"train", "val"} <= found["splits"].keys() and plan.features != "none":
            config = _configuration(found["splits"]["train"])
            steps.append(["train", config, "--data.store", folder])
    return [f"next: {command_line(step)}" for step in steps]


def _configuration(images: int) -> str:
    """Return the name of a configuration for so many training images."""
    if images < 15_000:
        return "vse_f8k"  # minutes on a CPU
    return "sgm_f30k" if images < 60_000 else "sgm_coco"


def _verified(folder: Path) -> str:
    """Return when the bytes of a store were last compared with their hashes."""
    at = last_verified(folder)
    if at is None:
        return "its bytes have not been verified yet; add --verify to do so, and to repair them"
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"its bytes were last verified on {when}; add --verify to do so now, and to repair them"


def changed_options(plan: Plan) -> str:
    """Return why stages are rebuilt: the options that differ from the latest store, or ""."""
    try:
        document = read_store_manifest(store_manifest_path(plan.store_dir))
        if document["dataset"] != plan.options.dataset:
            return ""
        reasons = []
        for name, group in plan.groups().items():
            entry = document["groups"].get(name)
            if entry is None or entry["key"] == group.key:
                continue
            before = read_group(plan.store_dir / entry["folder"]).params
            differences = _differences(before, group.params)
            if differences:
                reasons.append(f"{STAGES.get(name, name)}: {', '.join(differences)}")
    except (StoreError, ValueError, KeyError):
        return ""
    return "; ".join(reasons)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> list[str]:
    """Return ``name old -> new`` for each parameter that differs."""
    found: list[str] = []
    for name in sorted({*before, *after}):
        if not at and name in ("about", "built", "stage"):
            continue
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{at}{name}.")
        elif old != new and at != "inputs.":
            found.append(f"{name} {_brief(old)} -> {_brief(new)}")
    return found


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _size(count: int) -> str:
    """Return a number of bytes with its unit.

    >>> _size(512), _size(13_600_000)
    ('512 B', '13.6 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
