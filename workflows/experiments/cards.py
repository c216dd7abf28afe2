"""Reproducibility cards: what a row of a comparison was made of, and the command to make it again.

A card is a JSON file. ``python -m models.verify-result`` reads it, trains and evaluates the row
again and says whether its rSum falls into the interval of the card.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.format import content_key

CARD_VERSION = 1
_OF_DATA = {"image_dim", "vocab_size", "n_labels", "n_predicates", "n_tags", "word_dim"}
_PLACES = {  # settings that say where and for how long a run is kept, not what it computes
    "data": {"store"},
    "run": {"folder", "seed", "resume", "tensorboard"},
}
_PROTOCOL = ("split", "images", "captions", "fold5", "precision", "rerank_top")


def make_card(
    row: str,
    found: Sequence[Mapping[str, Any]],
    *,
    store: str,
    manifest: Mapping[str, Any],
    command: str,
    plugins: str = "",
) -> dict[str, Any]:
    """Return the card of a row.

    Args:
        row: its name.   found: results of ``models.evaluate``, one per seed.
        store: as the user named it.   manifest: of the store.
        command: trains and evaluates the row again.
        plugins: modules and files that register what it needs, separated by commas.
    """
    results = []
    for document in found:
        last = document["rows"][-1]  # the ensemble and its re-ranking
        (seed,) = {run["config"]["run"]["seed"] for run in document["runs"]}
        results.append({"seed": seed, "metrics": last["metrics"], "intervals": last["intervals"]})
    values = [one["metrics"]["rsum"] for one in results]
    ends = [end for one in results for end in one["intervals"].get("rsum", ())] + values
    return {
        "card": CARD_VERSION,
        "row": row,
        "command": command,
        "plugins": plugins,
        "store": {"path": store, "key": manifest["key"], "hash": manifest["hash"]},
        "protocol": {key: found[0][key] for key in _PROTOCOL},
        "trainings": [_training(run) for run in found[0]["runs"]],
        "rsum": {
            "value": statistics.fmean(values),
            "low": min(ends),
            "high": max(ends),
            "lowest_seed": min(values),
            "highest_seed": max(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
        },
        "results": results,
        "libraries": {
            "training": _joined(run.get("libraries", {}) for one in found for run in one["runs"]),
            "evaluation": _joined(one.get("libraries", {}) for one in found),
        },
        "device": ", ".join(sorted({one.get("device", "not recorded") for one in found})),
    }


def _training(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run, with all options of its model, and its hash.

    Places and the seed are left out, so that all seeds of a row have the same hash.
    """
    config: dict[str, Any] = {
        section: {
            key: value for key, value in values.items() if key not in _PLACES.get(section, ())
        }
        for section, values in run["config"].items()
    }
    given = config["model"]["options"]
    options = {k: v for k, v in run["options"].items() if k in given or k not in _OF_DATA}
    config["model"] = {**config["model"], "options": options}
    return {"configuration": content_key("configuration", "1", config, {}), "config": config}


def _joined(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the version of each library; several where trainings differ."""
    versions: dict[str, set[str]] = {}
    for one in found:
        for name, value in one.items():
            versions.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values)) for name, values in versions.items()}


def as_lines(card: Mapping[str, Any], path: str) -> list[str]:
    """Return a card as a folded section of Markdown; ``path`` is its file."""
    rsum, protocol = card["rsum"], card["protocol"]
    seeds = ", ".join(str(one["seed"]) for one in card["results"])
    spread = "one seed"
    if rsum["deviation"] is not None:
        spread = "{lowest_seed:.1f} to {highest_seed:.1f}".format(**rsum)
        spread += f", standard deviation {rsum['deviation']:.1f}"
    folds = ", five folds" if protocol["fold5"] else ""
    top = f", first {protocol['rerank_top']} re-ranked" if protocol["rerank_top"] else ""
    versions = ", ".join(f"{name} {one}" for name, one in card["libraries"]["training"].items())
    configurations = " + ".join(one["configuration"][:12] for one in card["trainings"])
    return [
        "<details>",
        f"<summary>{card['row']}: store {card['store']['key'][:12]}, configuration "
        f"{configurations}</summary>",
        "",
        f"- store: `{card['store']['path']}`, key {card['store']['key']}, contents "
        f"{card['store']['hash']}",
        f"- protocol: {protocol['split']}, {protocol['images']:,} images, "
        f"{protocol['captions']:,} captions{folds}{top}, {protocol['precision']}",
        f"- seeds: {seeds}; rSum {rsum['value']:.1f}, {spread}; interval {rsum['low']:.1f} to "
        f"{rsum['high']:.1f}",
        f"- libraries: {versions or 'not recorded'}; {card['device']}",
        f"- again: `{card['command']}`",
        f"- verify: `scenestore verify-result {path}`",
        "",
        "</details>",
    ]
