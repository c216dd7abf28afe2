"""A comparison as Markdown: our rows, their paired differences, and what other papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflows.experiments.cards import as_lines
from workflows.experiments.published import DATASETS, RECALLS

Summaries = Sequence[Mapping[str, Any]]


def as_markdown(document: dict[str, Any]) -> str:
    """Return the comparison as a Markdown table, best rSum first, with notes below."""
    rows = document["rows"]
    lines = [
        "| row | protocol | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rSum | 95 % "
        "| paper's rSum | diff |",
        "|---|---|" + "---:|" * 10,
    ]
    notes = []
    for row in sorted(rows, key=lambda one: -one["metrics"]["rsum"]):
        cells = [f"{row['metrics'][key]:.1f}" for key in (*RECALLS, "rsum")]
        intervals = []
        if row["rsum_interval"]:
            intervals.append("{:.1f}-{:.1f}".format(*row["rsum_interval"]))
        if len(row["rsum_seeds"]) > 1:
            intervals.append(f"{min(row['rsum_seeds']):.1f}-{max(row['rsum_seeds']):.1f} (seeds)")
        total = row["published"]["sum"]
        count = sum(key in row["published"] for key in RECALLS)
        part = f" of {count} recalls" if count < len(RECALLS) else ""
        paper = f"{total:.1f}{part} ({row['source']})" if total else "-"
        difference = "-" if row["difference"] is None else f"{row['difference']:+.1f}"
        if total and row["unlike"]:
            notes.append(f"`{row['name']}`: no difference: {'; '.join(row['unlike'])}.")
        if total and row["changed"]:
            difference += "" if row["difference"] is None else " *"
            notes.append(f"`{row['name']}`: trained otherwise: {'; '.join(row['changed'])}.")
        cells = [row["name"], row["protocol"], *cells, ", ".join(intervals), paper, difference]
        lines.append(f"| {' | '.join(cells)} |")
    settings = [f"{key}: {document[key]}" for key in ("changes", "overrides") if document[key]]
    chances = sorted({f"{row['protocol']} {row['chance']:.1f}" for row in rows})
    dataset = DATASETS.get(document.get("benchmark", ""), "")
    about = ", ".join(part for part in (dataset, document.get("photos")) if part)
    counts = f"Split {document['split']}{f' of {about}' if about else ''}, "
    counts += f"{document['seeds']} seed(s)"
    lines += ["", ", ".join([counts, f"chance rSum: {'; '.join(chances)}", *settings])]
    lines += [f"\n{note}" for note in notes]
    lines += _difference_lines(rows, document.get("differences") or {})
    lines += _quoted_lines(document.get("quoted") or (), dataset, about)
    lines += _card_lines(rows, document.get("cards") or {})
    return "\n".join(lines) + "\n"


def _difference_lines(rows: Summaries, differences: Mapping[str, Any]) -> list[str]:
    """Return a table of paired differences of rSum to the best row and to the baseline VSE."""
    pairs = differences.get("pairs", ())
    found = {tuple(pair["rows"]): pair["metrics"]["rsum"] for pair in pairs}
    if not found:
        return []
    found |= {
        (two, one): {
            "value": -metric["value"],
            "low": -metric["high"],
            "high": -metric["low"],
            "p": metric["p"],
        }
        for (one, two), metric in found.items()
    }
    ranked = sorted(rows, key=lambda one: -one["metrics"]["rsum"])
    others = [ranked[0]["name"], *(row["name"] for row in ranked if row.get("method") == "vse")]
    others = [*dict.fromkeys(others)]
    samples = differences["samples"]

    def cell(name: str, other: str) -> str:
        if (one := found.get((name, other))) is None:
            return "-"
        p = f"p {one['p']:.3f}" if one["p"] else f"p < {2 / samples:.3f}"
        return f"{one['value']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}] {p}"

    return [
        "",
        f"Paired differences of rSum: 95 % intervals and p of {samples:,} samples of images, the "
        "same for both rows; means over seeds. p is not corrected for the number of comparisons.",
        "",
        f"| row | {' | '.join(f'minus {other}' for other in others)} |",
        "|---|" + "---|" * len(others),
        *(
            f"| {' | '.join([row['name'], *(cell(row['name'], other) for other in others)])} |"
            for row in ranked
        ),
    ]


def _card_lines(rows: Summaries, files: Mapping[str, str]) -> list[str]:
    """Return the reproducibility cards of all rows, folded."""
    if not files:
        return []
    lines = ["", "## How each row was made", ""]
    for row in sorted(rows, key=lambda one: -one["metrics"]["rsum"]):
        lines += [*as_lines(row["card"], files[row["name"]]), ""]
    return lines[:-1]


def _quoted_lines(rows: Summaries, dataset: str, about: str) -> list[str]:
    """Return a table of what other papers print for a data set, with their sources."""
    if not rows:
        return []
    lines = [
        "",
        f"## Published on {dataset}, not by this package",
        "",
        "Other image features and other training: rows to look at, not to subtract. The rows above"
        f" are {about}. * is an ensemble.",
        "",
        "| method | protocol | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rSum | image features "
        "| source |",
        "|---|---|" + "---:|" * 7 + "---|---|",
    ]
    for row in rows:
        numbers = row["numbers"]
        cells = [f"{numbers[key]:.1f}" if key in numbers else "" for key in RECALLS]
        whole = row["sum"] is not None and all(key in numbers for key in RECALLS)
        label = row["label"].replace("*", "").strip() + (" *" if row["ensemble"] else "")
        total = f"{row['sum']:.1f}" if whole else ""
        cells = [label, row["protocol"], *cells, total, row["regions"], row["source"]]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return lines
