"""Commands of ``python -m pipeline`` about pictures: detect, evaluate-detections, fit-relations."""

from __future__ import annotations

import argparse
import json
import sys

from features.records import Detections

__all__ = ["add_commands"]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this module's commands to the parser of ``python -m pipeline``."""
    add = commands.add_parser("detect", help="objects in photos", description=_detect.__doc__)
    add.add_argument("photos", nargs="+", metavar="PHOTO")
    add.add_argument("--detector", default="nanodet", help="registered name (default: nanodet)")
    add.add_argument("--detections", help="file or folder of a precomputed detector")
    add.add_argument("--max-objects", type=int, default=100)
    add.add_argument("--json", action="store_true", help="one JSON object per photo")
    add.set_defaults(run=_detect)


def _detect(options: argparse.Namespace) -> int:
    """Detect objects in photos and print boxes (xyxy pixels), labels and scores."""
    from pipeline.detect import create_detector, detect

    extra = {} if options.detections is None else {"path": options.detections}
    detector = create_detector(options.detector, **extra)
    for photo in options.photos:
        (found,) = detect([photo], detector, options.max_objects)
        if options.json:
            _write(json.dumps(_as_json(photo, found), ensure_ascii=False))
            continue
        _write(f"{photo}: {found.size[0]} x {found.size[1]}, {len(found.labels)} objects")
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
            _write(f"  {score:.2f}  {label:<16} " + " ".join(f"{value:7.1f}" for value in box))
    return 0


def _as_json(photo: str, found: Detections) -> dict[str, object]:
    return {
        "photo": photo,
        "size": list(found.size),
        "objects": [
            {
                "label": label,
                "score": round(float(score), 4),
                "box": [round(float(v), 2) for v in b],
            }
            for b, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
        ],
    }


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
