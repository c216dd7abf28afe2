"""The commands ``import`` and ``export`` of ``python -m features``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from features.convert.formats import IMPORT_FORMATS
from features.errors import UnknownName, UsageError

__all__ = [
    "EXPORT_FORMATS",
    "add_export_arguments",
    "add_import_arguments",
    "run_export",
    "run_import",
]


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format: module and function of its writer, what it is, options beside the splits."""

    module: str
    function: str
    doc: str
    options: tuple[str, ...] = ()


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "scan-precomp": ExportFormat(
        "scan", "export_scan", "folder for SCAN, GSMN and HREM", ("min_count", "vocab")
    ),
    "parquet": ExportFormat("text", "export_parquet", "folder of Parquet tables"),
    "conllu": ExportFormat("text", "export_conllu", "parsed captions, one file"),
    "coco-captions": ExportFormat("text", "export_coco_captions", "COCO's captions JSON"),
    "sgb": ExportFormat("graphs", "export_sgb", "folder of Scene-Graph-Benchmark's JSON"),
    "lgsgm": ExportFormat("graphs", "export_lgsgm", "folder of LGSGM's JSON"),
    "faiss": ExportFormat(
        "faiss", "export_faiss", "embeddings, ids and an index", ("embeddings", "of")
    ),
}


def _listed(formats: dict[str, str]) -> str:
    width = max(map(len, formats))
    return "\n".join(f"  {name:{width}}  {doc}" for name, doc in formats.items())


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``import``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    docs = {
        name: entry.doc + (f" (--extra {', '.join(entry.extras)})" if entry.extras else "")
        for name, entry in IMPORT_FORMATS.items()
    }
    parser.epilog = f"formats:\n{_listed(docs)}"
    parser.add_argument("format", metavar="FORMAT", help="see below")
    parser.add_argument("source", metavar="SOURCE", help="the file or folder")
    parser.add_argument("--store-dir", required=True, metavar="DIR", help="where the store goes")
    parser.add_argument("--name", help="name of the data set (default: the format)")
    parser.add_argument("--captions", metavar="FILE", help="Karpathy's dataset_*.json[.gz]")
    parser.add_argument("--images-dir", metavar="DIR", help="photos, for sizes that are missing")
    parser.add_argument("--split", default="unsplit", help="split where nothing else says")
    parser.add_argument("--max-objects", type=int, default=36, metavar="K")
    parser.add_argument("--max-relations", type=int, default=None, metavar="R")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail")
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="one more file of the format, for example objects=objects_vocab.txt",
    )


def run_import(args: argparse.Namespace) -> int:
    """Run ``import``; print what was stored and what a user should know."""
    from features.convert.importing import import_store

    extras = {}
    for item in args.extra:
        key, sign, path = item.partition("=")
        if not sign or not path:
            raise UsageError(f"--extra {item!r} must be KEY=PATH.")
        extras[key] = path
    report = import_store(
        args.format,
        args.source,
        args.store_dir,
        name=args.name,
        captions=args.captions,
        images_dir=args.images_dir,
        split=args.split,
        max_objects=args.max_objects,
        max_relations=args.max_relations,
        dtype=args.dtype,
        on_error=args.on_error,
        extras=extras,
    )
    say = sys.stdout.write
    say(f"{report.manifest}\n{report.images} images, {report.captions} captions\n")
    for note in report.notes:
        say(f"note: {note}\n")
    for image_id, reason in report.skipped[:10]:
        say(f"skipped {image_id}: {reason}\n")
    if len(report.skipped) > 10:
        say(f"... and {len(report.skipped) - 10} more; store.skipped has all\n")
    if report.captions:
        say("next: luigi --module workflows AddText --local-scheduler ")
        say(f"--store-dir {args.store_dir}  (parses the captions)\n")
    return 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    docs = {name: entry.doc for name, entry in EXPORT_FORMATS.items()}
    parser.epilog = f"formats:\n{_listed(docs)}"
    parser.add_argument("format", metavar="FORMAT", help="see below")
    parser.add_argument("store", metavar="STORE", help="folder of the store, or its manifest")
    parser.add_argument("out", metavar="OUT", help="file or folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace files of that name")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: all")
    parser.add_argument("--min-count", type=int, metavar="N", help="scan-precomp: vocabulary (4)")
    parser.add_argument("--vocab", metavar="FILE", help="scan-precomp: an existing *_vocab.json")
    parser.add_argument("--embeddings", metavar="FILE", help="faiss: .npy (n, D)")
    parser.add_argument("--of", choices=("images", "captions"), help="faiss: what the rows are")


def run_export(args: argparse.Namespace) -> int:
    """Run ``export``; print where the files are and what a user should know."""
    from features.store import open_store

    if args.format not in EXPORT_FORMATS:
        raise UnknownName.of("export format", args.format, EXPORT_FORMATS)
    entry = EXPORT_FORMATS[args.format]
    options = {}
    for name in ("min_count", "vocab", "embeddings", "of"):
        value = getattr(args, name)
        if value is None:
            continue
        if name not in entry.options:
            raise UsageError(f"--{name.replace('_', '-')} means nothing to {args.format!r}.")
        options[name] = value
    module = importlib.import_module(f"features.convert.writers.{entry.module}")
    export: Callable[..., list[str]] = getattr(module, entry.function)
    notes = export(
        open_store(args.store), args.out, splits=args.splits, overwrite=args.overwrite, **options
    )
    sys.stdout.write(f"{args.out}\n")
    for note in notes:
        sys.stdout.write(f"note: {note}\n")
    return 0
